//! The engine behind `flux stress` and `flux audit`: buyers over HTTP, and the auditor.

mod audit;
mod figures;

pub use audit::audit;
pub use figures::{AuditReport, Figures, ItemAudit, Verdict};
