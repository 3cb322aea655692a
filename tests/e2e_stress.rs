//! `flux stress` from its buyers to its verdict, small, on the embedded store.

use std::time::Duration;

use flux::config::Settings;
use flux::core::order::ItemId;
use flux::load::{Address, Guard, Plan, Report, Stress, StressError, Target, Verdict, audit};
use flux::wiring::rehearsal::{Cast, Rehearsal};

fn plan(stock: u64, users: u64) -> Plan {
    let stock = Some(stock);
    let item = ItemId::parse("ticket_001").unwrap();
    Plan { item, stock, users, connections: 16, rate: None, duplicates: 0.1, seed: 7 }
}

async fn rehearse(plan: Plan, workers: usize, without: &[Guard]) -> Report {
    let cast = Cast { connections: plan.connections, workers, without: without.to_vec() };
    let (rehearsal, target) = Rehearsal::start(Settings::default(), cast).await.unwrap();
    let report = Stress { plan, target }.run().await.unwrap();
    rehearsal.end(Duration::from_secs(5)).await;
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_wants_one_ticket_and_one_gets_it() {
    let report = rehearse(plan(1, 400), 1, &[]).await;
    assert_eq!(report.faults, [""; 0]);
    assert_eq!((report.verdict, report.sold, report.rejected), (Verdict::Pass, 1, 399));
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
async fn three_workers_sell_what_there_is_on_time() {
    let plan = Plan { rate: Some(1_000.0), duplicates: 1.0, ..plan(50, 300) };
    let report = rehearse(plan, 3, &[]).await;
    assert_eq!(report.faults, [""; 0]);
    assert_eq!((report.requests, report.accepted, report.sold), (600, 300, 50));
    assert!(report.accepted_per_s < 1_100.0, "the rate is not exceeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_has_the_agreed_names() {
    let report = rehearse(plan(2, 40), 1, &[]).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_server_is_audited_by_what_it_shows() {
    let cast = Cast { connections: 16, workers: 1, without: Vec::new() };
    let (rehearsal, target) = Rehearsal::start(Settings::default(), cast).await.unwrap();
    let ledger = target.own.unwrap().ports.ledger;
    let plan = plan(30, 200);
    let foreign = || Target { address: target.address.clone(), own: None };
    let unlisted = Stress { plan: plan.clone(), target: foreign() }.run().await;
    assert!(matches!(unlisted, Err(StressError::OtherStock { .. })));
    ledger.set_stock(&plan.item, 30).await.unwrap();
    for sold in [30, 0] {
        let report = Stress { plan: plan.clone(), target: foreign() }.run().await.unwrap();
        assert_eq!(report.faults, [""; 0]);
        assert_eq!((report.stock, report.sold, report.accepted), (30, sold, 200));
        assert_eq!((report.audited_by, report.backend.as_str()), ("http", "embedded"));
        assert!(report.to_string().contains("by HTTP only"));
    }
    rehearsal.end(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_in_progress_is_not_accused() {
    let cast = Cast { connections: 16, workers: 2, without: Vec::new() };
    let (rehearsal, target) = Rehearsal::start(Settings::default(), cast).await.unwrap();
    let ledger = target.own.as_ref().unwrap().ports.ledger.clone();
    let auditing = async {
        let mut undecided = 0;
        loop {
            let report = audit(&*ledger, None).await.unwrap();
            assert_eq!(report.verdict, Verdict::Pass, "{report}");
            undecided = undecided.max(report.total.undecided);
            if report.total.orders == 3_000 && report.total.undecided == 0 {
                return undecided;
            }
        }
    };
    let selling = Stress { plan: plan(1_000, 3_000), target }.run();
    let (report, undecided) = tokio::join!(selling, auditing);
    assert_eq!(report.unwrap().faults, [""; 0]);
    assert!(undecided > 0, "no audit fell into the sale");
    rehearsal.end(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let address = Address::parse(&format!("http://{free}")).unwrap();
    let target = Target { address, own: None };
    let error = Stress { plan: plan(1, 10), target }.run().await.unwrap_err();
    assert!(matches!(error, StressError::Unreachable(..)), "{error}");
    assert!(error.to_string().contains(&free.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_lock_nothing_goes_wrong_twenty_times_of_twenty() {
    for round in 0..20 {
        let report = rehearse(plan(1, 60), 0, &[Guard::Lock]).await;
        assert_eq!(report.faults, [""; 0], "round {round}");
        assert_eq!((report.sold, report.rejected), (1, 59), "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_lock_and_condition_it_oversells_twenty_times_of_twenty() {
    for round in 0..20 {
        let report = rehearse(plan(1, 60), 0, &[Guard::Lock, Guard::LedgerCondition]).await;
        assert_eq!((report.sold, report.oversold_units), (4, 3), "round {round}");
        assert_eq!(report.verdict, Verdict::Fail);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_alone_does_not_save_the_sale() {
    for round in 0..3 {
        let report = rehearse(plan(2, 60), 0, &[Guard::LedgerCondition]).await;
        assert!(report.oversold_units >= 3, "round {round}: {:?}", report.faults);
        assert!(report.to_string().contains("ledger-condition: must oversell; it oversold"));
    }
}
