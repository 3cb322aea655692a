//! The engine behind `flux stress` and `flux audit`: buyers over HTTP, and the auditor.

mod audit;
mod buyers;
mod cost;
mod course;
mod figures;
mod page;
mod plan;
mod race;
mod report;
mod settle;
mod sight;
mod stress;
mod tally;
mod window;

pub use audit::audit;
pub use cost::{Cost, Operation, PerThousand, Prices};
pub use course::Course;
pub use figures::{AuditReport, Figures, ItemAudit, Verdict};
pub use page::Circumstances;
pub use plan::Plan;
pub use race::{Guard, Race};
pub use report::{Machine, Report, RequestsPerOrder};
pub use stress::{Own, Stress, StressError, Target};
pub use tally::Percentiles;

use crate::client as connection;
pub use crate::client::Address;
