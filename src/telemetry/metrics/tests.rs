//! What Prometheus reads after something was recorded, and that `docs/metrics.md` lists the same names.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::families::FAMILIES;
use super::recorder::{describe, prometheus};
use super::*;
use crate::command::table::{OTHER, find};

/// Everything that `record` recorded, as Prometheus reads it.
fn rendered(record: impl FnOnce()) -> String {
    let recorder = prometheus().unwrap().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        describe();
        record();
    });
    recorder.handle().render()
}

fn check(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|found| found == *line), "no {line:?} in\n{text}");
    }
}

#[test]
fn a_connection_is_counted_once_however_it_ends() {
    let text = rendered(|| {
        let metrics = Arc::new(ListenerMetrics::new("orders"));
        let open = metrics.open_connection();
        let mut probe = metrics.open_connection();
        probe.set_outcome(ConnectionOutcome::Probe);
        drop(probe);
        let panicking = std::thread::spawn(move || {
            let _open = open;
            std::panic::resume_unwind(Box::new("a panic in a connection"));
        });
        assert!(panicking.join().is_err());
        drop(metrics.open_connection());
    });
    check(
        &text,
        &[
            r#"mongate_connections_active{listener="orders"} 0"#,
            r#"mongate_connections_total{listener="orders",outcome="completed"} 2"#,
            r#"mongate_connections_total{listener="orders",outcome="probe"} 1"#,
            r#"mongate_connections_total{listener="orders",outcome="rejected"} 0"#,
        ],
    );
}

#[test]
fn commands_are_counted_by_name_and_outcome_and_timed_when_answered() {
    let text = rendered(|| {
        let metrics = ListenerMetrics::new("orders");
        let command = find(b"find").unwrap().id;
        metrics.count_command(command, CommandOutcome::Ok(Duration::from_micros(300)));
        metrics.count_command(command, CommandOutcome::Error(Duration::from_secs(2)));
        metrics.count_command(command, CommandOutcome::Denied);
        metrics.count_command(OTHER, CommandOutcome::Unacknowledged);
    });
    check(
        &text,
        &[
            r#"mongate_commands_total{listener="orders",command="find",outcome="ok"} 1"#,
            r#"mongate_commands_total{listener="orders",command="find",outcome="error"} 1"#,
            r#"mongate_commands_total{listener="orders",command="find",outcome="denied"} 1"#,
            r#"mongate_commands_total{listener="orders",command="other",outcome="unacknowledged"} 1"#,
            r#"mongate_command_duration_seconds_bucket{listener="orders",command="find",le="0.00025"} 0"#,
            r#"mongate_command_duration_seconds_bucket{listener="orders",command="find",le="0.0005"} 1"#,
            r#"mongate_command_duration_seconds_bucket{listener="orders",command="find",le="5"} 2"#,
            r#"mongate_command_duration_seconds_count{listener="orders",command="find"} 2"#,
            r#"mongate_command_duration_seconds_sum{listener="orders",command="find"} 2.0003"#,
            r#"mongate_command_duration_seconds_count{listener="orders",command="other"} 0"#,
        ],
    );
    assert!(!text.contains("insert"), "a command that was never used has a series");
}

#[test]
fn an_error_name_from_the_wire_is_no_label_unless_it_is_known() {
    let text = rendered(|| {
        let metrics = ListenerMetrics::new("orders");
        metrics.count_command_error(Some(11000), Some(b"DuplicateKey"));
        metrics.count_command_error(None, Some(b"forged\"} 1\nmongate_forged 1"));
        metrics.count_command_error(Some(4_242_424), None);
    });
    check(
        &text,
        &[
            r#"mongate_command_errors_total{listener="orders",code_name="DuplicateKey"} 1"#,
            r#"mongate_command_errors_total{listener="orders",code_name="other"} 2"#,
        ],
    );
    assert!(!text.contains("forged"));
}

#[test]
fn bytes_handshakes_certificates_and_build_are_exported() {
    let text = rendered(|| {
        let metrics = ListenerMetrics::new("orders");
        metrics.count_bytes(Direction::ToUpstream, 70_000);
        metrics.count_bytes(Direction::ToClient, 5);
        metrics.count_unparsed_message(Direction::ToClient);
        let upstream = UpstreamMetrics::new("shop", &["client_certificate_refused"]);
        upstream.count_handshake(Duration::from_millis(2));
        upstream.count_failed_handshake("client_certificate_refused");
        upstream.change_warm_connections(0, 3);
        upstream.change_warm_connections(3, 2);
        upstream.count_recycled(Recycling::Closed);
        upstream.record_pool_wait(Duration::from_millis(2));
        upstream.count_pool_reuse();
        set_certificate_expiry(CertificateRole::UpstreamClient, "shop", 1_900_000_000);
    });
    check(
        &text,
        &[
            r#"mongate_bytes_total{listener="orders",direction="to_upstream"} 70000"#,
            r#"mongate_bytes_total{listener="orders",direction="to_client"} 5"#,
            r#"mongate_unparsed_messages_total{listener="orders",direction="to_client"} 1"#,
            r#"mongate_upstream_handshakes_total{upstream="shop",outcome="ok"} 1"#,
            r#"mongate_upstream_handshakes_total{upstream="shop",outcome="client_certificate_refused"} 1"#,
            r#"mongate_upstream_handshake_duration_seconds_count{upstream="shop"} 1"#,
            r#"mongate_upstream_warm_connections{upstream="shop"} 2"#,
            r#"mongate_pool_wait_seconds_bucket{upstream="shop",le="0.0025"} 1"#,
            r#"mongate_pool_reuses_total{upstream="shop"} 1"#,
            r#"mongate_upstream_recycled_total{upstream="shop",how="moved"} 0"#,
            r#"mongate_upstream_recycled_total{upstream="shop",how="closed"} 1"#,
            r#"mongate_certificate_expiry_timestamp_seconds{role="upstream_client",name="shop"} 1900000000"#,
            concat!(r#"mongate_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#),
        ],
    );
}

#[test]
fn a_listed_principal_has_its_own_series_for_commands_errors_and_bytes() {
    let text = rendered(|| {
        let shop = Arc::new(ListenerMetrics::for_principal("orders", "cluster.local/ns/shop/*"));
        let other = Arc::new(ListenerMetrics::for_principal("orders", "other"));
        for metrics in [&shop, &other] {
            metrics.count_command(find(b"find").unwrap().id, CommandOutcome::Ok(Duration::from_micros(300)));
            metrics.count_command_error(Some(11000), None);
            metrics.count_bytes(Direction::ToClient, 5);
            metrics.count_handshake(ClientHandshake::Revoked);
            drop(metrics.open_connection());
        }
    });
    check(
        &text,
        &[
            concat!(
                r#"mongate_commands_total{listener="orders",principal="cluster.local/ns/shop/*","#,
                r#"command="find",outcome="ok"} 1"#
            ),
            r#"mongate_commands_total{listener="orders",principal="other",command="find",outcome="ok"} 1"#,
            r#"mongate_command_duration_seconds_count{listener="orders",principal="other",command="find"} 1"#,
            r#"mongate_command_errors_total{listener="orders",principal="other",code_name="DuplicateKey"} 1"#,
            r#"mongate_bytes_total{listener="orders",principal="other",direction="to_client"} 5"#,
            r#"mongate_client_handshakes_total{listener="orders",outcome="revoked"} 2"#,
            r#"mongate_connections_total{listener="orders",outcome="completed"} 2"#,
        ],
    );
}

#[test]
fn the_page_lists_every_outcome_of_a_clients_handshake() {
    let page = include_str!("../../../docs/metrics.md");
    let row = page.lines().find(|line| line.starts_with("| `outcome` of a client's handshake |")).unwrap();
    for outcome in ClientHandshake::ALL {
        assert!(row.contains(&format!("`{}`", outcome.label())), "{} is not on the page", outcome.label());
        assert_eq!(ClientHandshake::of_label(outcome.label()), outcome);
    }
}

#[test]
fn a_variant_is_its_own_index() {
    assert!(ConnectionOutcome::ALL.iter().enumerate().all(|(at, outcome)| *outcome as usize == at));
    assert!(ClientHandshake::ALL.iter().enumerate().all(|(at, outcome)| *outcome as usize == at));
    assert_eq!([Direction::ToUpstream as usize, Direction::ToClient as usize], [0, 1]);
    assert_eq!([Recycling::Moved as usize, Recycling::Closed as usize], [0, 1]);
}

#[test]
fn the_page_lists_the_same_names_as_the_code() {
    let page = include_str!("../../../docs/metrics.md");
    let listed: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `mongate_"))
        .filter_map(|rest| rest.split('`').next())
        .collect();
    let known: BTreeSet<&str> = FAMILIES.iter().filter_map(|family| family.name.strip_prefix("mongate_")).collect();
    assert_eq!(listed, known);
}
