//! `flux stress` from its buyers to its verdict, small, on the embedded store.

use std::time::Duration;

use flux::cmd::test_deployment::{TestDeployment, Topology};
use flux::config::Settings;
use flux::core::model::ItemId;
use flux::load::{
    Address, AuditResult, Circumstances, DisabledGuard, LoadPlan, Report, Stress, StressError,
    Target, audit,
};

use crate::support::free_port;

fn plan(stock: u64, users: u64) -> LoadPlan {
    let stock = Some(stock);
    let item = ItemId::parse("ticket_001").unwrap();
    LoadPlan { item, stock, users, connections: 16, rate: None, duplicates: 0.1, seed: 7 }
}

async fn run_stress(plan: LoadPlan, workers: usize, without: &[DisabledGuard]) -> Report {
    let topology = Topology { connections: plan.connections, workers, without: without.to_vec() };
    let (deployment, target) = TestDeployment::start(Settings::default(), topology).await.unwrap();
    let report = Stress { plan, target }.run().await.unwrap();
    deployment.end(Duration::from_secs(5)).await;
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_400_buyers_gets_one_ticket() {
    let report = run_stress(plan(1, 400), 1, &[]).await;
    assert_eq!(report.faults, [""; 0]);
    assert_eq!((report.verdict, report.sold, report.rejected), (AuditResult::Pass, 1, 399));
    assert_eq!((report.accepted, report.undecided, report.decided_twice), (400, 0, 0));
    assert!(report.requests > 410, "one request in ten is repeated: {}", report.requests);
    assert!(report.ack_ms.is_some() && report.decision_ms.is_some());
    assert!(report.accepted_per_s > 0.0 && report.decided_per_s > 0.0);
    assert!(
        report
            .to_string()
            .ends_with("PASS: sold 1 of 1, oversold 0, stranded 0, undecided 0, decided twice 0")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rate_is_not_exceeded_with_three_workers() {
    let plan = LoadPlan { rate: Some(1_000.0), duplicates: 1.0, ..plan(50, 300) };
    let report = run_stress(plan, 3, &[]).await;
    assert_eq!(report.faults, [""; 0]);
    assert_eq!((report.requests, report.accepted, report.sold), (600, 300, 50));
    assert!(report.accepted_per_s < 1_100.0, "the rate is not exceeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_report_has_its_documented_keys() {
    let report = run_stress(plan(2, 40), 1, &[]).await;
    let json = serde_json::to_value(&report).unwrap();
    for name in [
        "verdict item_id stock requests accepted sold held rejected oversold_units",
        "stranded_units undecided decided_twice ack_ms decision_ms accepted_per_s",
        "decided_per_s requests_per_order backend seed machine commit",
    ]
    .iter()
    .flat_map(|names| names.split(' '))
    {
        assert!(json.get(name).is_some(), "{name}");
    }
    assert_eq!(json["verdict"], "pass");
    for name in ["p50", "p99", "p999", "max"] {
        assert!(json["ack_ms"][name].is_number() && json["decision_ms"][name].is_number());
    }
    for name in ["sqs", "redis", "dynamodb"] {
        assert_eq!(json["requests_per_order"][name], 0.0);
    }
}

/// The figures of an HTML page, with their names in the JSON report.
fn figures(page: &str) -> Vec<(String, String)> {
    let parts = page.split("<data data-name=\"").skip(1);
    let figure = |part: &str| {
        let (name, rest) = part.split_once("\" value=\"").unwrap();
        (name.to_owned(), rest.split_once('"').unwrap().0.to_owned())
    };
    parts.map(figure).collect()
}

fn assert_page_agrees(report: &Report) {
    let json = serde_json::to_value(report).unwrap();
    let figures = figures(&report.page(&Circumstances::default()));
    for (name, value) in &figures {
        let found = json.pointer(&format!("/{}", name.replace('.', "/"))).expect(name);
        let same = match found.as_f64() {
            Some(number) => value.parse() == Ok(number),
            None => found == value.as_str(),
        };
        assert!(same, "{name}: {value} on the page, {found} in the JSON");
    }
    for name in "verdict stock sold oversold_units stranded_units undecided decided_twice accepted \
                 requests rejected ack_ms.p50 decision_ms.max accepted_per_s decided_per_s"
        .split(' ')
    {
        assert!(figures.iter().any(|(shown, _)| shown == name), "{name}");
    }
}

/// The sums of the table over time: requests, 429 and 503, accepted, decided, units sold.
fn sums_over_time(page: &str) -> Vec<u64> {
    let rows = page.split("<tbody>").nth(1).unwrap().split("</tbody>").next().unwrap();
    let mut sums = vec![0; 5];
    for row in rows.split("<tr>").skip(1) {
        let cells = row.split("<td>").skip(2).map(|cell| cell.split_once('<').unwrap().0);
        for (sum, cell) in sums.iter_mut().zip(cells) {
            *sum += cell.replace(',', "").parse::<u64>().unwrap();
        }
    }
    sums
}

#[tokio::test(flavor = "multi_thread")]
async fn html_page_agrees_with_json_report() {
    for without in [&[][..], &[DisabledGuard::LedgerCondition]] {
        let report = run_stress(plan(3, 200), 1, without).await;
        assert_page_agrees(&report);
        let page = report.page(&Circumstances::default());
        let Report { requests, refused, accepted, sold, .. } = report;
        assert_eq!(sums_over_time(&page), [requests, refused, accepted, accepted, sold]);
        assert_eq!(page.contains("Broken promises"), !without.is_empty());
        for plot in ["rates", "stock", "waiting", "ack", "decision"] {
            assert!(page.contains(&format!("<title id=\"{plot}-title\">")), "{plot}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn html_page_fetches_nothing_and_escapes_text() {
    let mut report = run_stress(plan(1, 40), 1, &[]).await;
    let evil = "</title><script>alert(1)</script><img src=http://x.test/>\" onload=\"x";
    report.faults.push(evil.to_owned());
    report.backend = evil.to_owned();
    let settings = vec![("data", evil.to_owned())];
    let page = report.page(&Circumstances { command_line: evil.to_owned(), settings });
    for tag in ["<script", "<img", "<link", "href=", "@import", "url("] {
        assert!(!page.contains(tag), "{tag}");
    }
    assert_eq!(page.matches("&lt;script&gt;alert(1)").count(), 4);
    assert_eq!(page.matches("</title>").count(), 1 + 5, "the page's and one of each plot");
}

#[tokio::test(flavor = "multi_thread")]
async fn target_server_is_audited_over_http() {
    let topology = Topology { connections: 16, workers: 1, without: Vec::new() };
    let (deployment, target) = TestDeployment::start(Settings::default(), topology).await.unwrap();
    let ledger = target.own.unwrap().ports.ledger;
    let plan = plan(30, 200);
    let over_http = || Target { address: target.address.clone(), own: None };
    let unlisted = Stress { plan: plan.clone(), target: over_http() }.run().await;
    assert!(matches!(unlisted, Err(StressError::OtherStock { .. })));
    ledger.set_stock(&plan.item, 30).await.unwrap();
    for sold in [30, 0] {
        let report = Stress { plan: plan.clone(), target: over_http() }.run().await.unwrap();
        assert_eq!(report.faults, [""; 0]);
        assert_eq!((report.stock, report.sold, report.accepted), (30, sold, 200));
        assert_eq!((report.audited_by, report.backend.as_str()), ("http", "embedded"));
        assert!(report.to_string().contains("by HTTP only"));
        assert_page_agrees(&report);
        let page = report.page(&Circumstances::default());
        assert!(page.contains("waiting buyers (1 of 20)") && page.contains("30 of 30 sold"));
        assert_eq!(sums_over_time(&page)[2..4], [200, 10]);
    }
    deployment.end(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_of_running_sale_reports_no_fault() {
    let topology = Topology { connections: 16, workers: 2, without: Vec::new() };
    let (deployment, target) = TestDeployment::start(Settings::default(), topology).await.unwrap();
    let ledger = target.own.as_ref().unwrap().ports.ledger.clone();
    let auditing = async {
        let mut undecided = 0;
        loop {
            let report = audit(&*ledger, None).await.unwrap();
            assert_eq!(report.verdict, AuditResult::Pass, "{report}");
            undecided = undecided.max(report.total.undecided);
            if report.total.orders == 3_000 && report.total.undecided == 0 {
                return undecided;
            }
        }
    };
    let selling = Stress { plan: plan(1_000, 3_000), target }.run();
    let (report, undecided) = tokio::join!(selling, auditing);
    assert_eq!(report.unwrap().faults, [""; 0]);
    assert!(undecided > 0, "no audit ran during the sale");
    deployment.end(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn unreachable_server_is_named() {
    let free = format!("127.0.0.1:{}", free_port());
    let address = Address::parse(&format!("http://{free}")).unwrap();
    let target = Target { address, own: None };
    let error = Stress { plan: plan(1, 10), target }.run().await.unwrap_err();
    assert!(matches!(error, StressError::Unreachable(..)), "{error}");
    assert!(error.to_string().contains(&free));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_promise_breaks_without_the_lock() {
    for round in 0..20 {
        let report = run_stress(plan(1, 60), 0, &[DisabledGuard::Lock]).await;
        assert_eq!(report.faults, [""; 0], "round {round}");
        assert_eq!((report.sold, report.rejected), (1, 59), "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sale_oversells_without_lock_and_condition() {
    for round in 0..20 {
        let report =
            run_stress(plan(1, 60), 0, &[DisabledGuard::Lock, DisabledGuard::LedgerCondition])
                .await;
        assert_eq!((report.sold, report.oversold_units), (4, 3), "round {round}");
        assert_eq!(report.verdict, AuditResult::Fail);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sale_oversells_with_the_lock_alone() {
    for round in 0..3 {
        let report = run_stress(plan(2, 60), 0, &[DisabledGuard::LedgerCondition]).await;
        assert!(report.oversold_units >= 3, "round {round}: {:?}", report.faults);
        assert!(report.to_string().contains("ledger-condition: must oversell; it oversold"));
    }
}
