//! Gauges whose values have other owners: they are read at each scrape, and never recorded.
//!
//! A recorder would keep the series of a member that has left its set.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use super::families::{
    CONFIG_PENDING_RESTART, FAMILIES, LISTENER_READY, NEXT_RULE_EXPIRY, POOL_CONNECTIONS, READY, READY_CONDITION,
    UPSTREAM_UP,
};

/// What `/readyz` and `/status` are about, for Prometheus.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StateGauges {
    /// Upstream, member, and whether the gateway can connect to it.
    pub members: Vec<(String, String, bool)>,
    /// Upstream, member, and the numbers of its shared connections that are idle and in use. Only of upstreams with a
    /// pool.
    pub pools: Vec<(String, String, [usize; 2])>,
    /// Whether the process is ready.
    pub is_ready: bool,
    /// Each condition of the readiness probe, and whether it holds.
    pub conditions: Vec<(String, bool)>,
    /// Listener, and whether it is ready.
    pub listeners: Vec<(String, bool)>,
    /// The number of changed configuration keys that need a restart.
    pub pending_restart: usize,
    /// When the next rule of the policy expires.
    pub next_rule_expiry: Option<SystemTime>,
}

impl StateGauges {
    /// The series in the Prometheus text format, version 0.0.4.
    pub fn render(&self) -> String {
        let mut text = String::new();
        begin(&mut text, UPSTREAM_UP);
        for (upstream, member, is_up) in &self.members {
            let (upstream, member) = (escaped(upstream), escaped(member));
            let value = u8::from(*is_up);
            let _ = writeln!(text, "{UPSTREAM_UP}{{upstream=\"{upstream}\",member=\"{member}\"}} {value}");
        }
        begin(&mut text, POOL_CONNECTIONS);
        for (upstream, member, counts) in &self.pools {
            let (upstream, member) = (escaped(upstream), escaped(member));
            for (state, count) in ["idle", "in_use"].into_iter().zip(counts) {
                let labels = format!("upstream=\"{upstream}\",member=\"{member}\",state=\"{state}\"");
                let _ = writeln!(text, "{POOL_CONNECTIONS}{{{labels}}} {count}");
            }
        }
        begin(&mut text, READY);
        let _ = writeln!(text, "{READY} {}", u8::from(self.is_ready));
        begin(&mut text, READY_CONDITION);
        for (condition, holds) in &self.conditions {
            let _ = writeln!(text, "{READY_CONDITION}{{condition=\"{}\"}} {}", escaped(condition), u8::from(*holds));
        }
        begin(&mut text, LISTENER_READY);
        for (listener, is_ready) in &self.listeners {
            let _ = writeln!(text, "{LISTENER_READY}{{listener=\"{}\"}} {}", escaped(listener), u8::from(*is_ready));
        }
        begin(&mut text, CONFIG_PENDING_RESTART);
        let _ = writeln!(text, "{CONFIG_PENDING_RESTART} {}", self.pending_restart);
        if let Some(at) = self.next_rule_expiry {
            begin(&mut text, NEXT_RULE_EXPIRY);
            let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let _ = writeln!(text, "{NEXT_RULE_EXPIRY} {seconds}");
        }
        text
    }
}

/// The lines before the series of a gauge.
fn begin(text: &mut String, name: &str) {
    let help = FAMILIES.iter().find(|family| family.name == name).map_or("", |family| family.help);
    let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n");
}

/// A label value. The names of members come from the servers.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_member_and_listener_has_a_line() {
        let text = |text: &str| text.to_owned();
        let gauges = StateGauges {
            members: vec![(text("orders"), text("mongo-0:27017"), true), (text("orders"), text("a\"b\\c\nd:1"), false)],
            pools: vec![(text("orders"), text("mongo-0:27017"), [3, 7])],
            is_ready: true,
            conditions: vec![(text("serving"), true), (text("listener stock"), false)],
            listeners: vec![(text("orders"), true), (text("stock"), false)],
            pending_restart: 2,
            next_rule_expiry: Some(UNIX_EPOCH + std::time::Duration::from_hours(498_930)),
        };
        let expected = r#"# HELP mongate_upstream_up 1 if the gateway can connect to this member, else 0.
# TYPE mongate_upstream_up gauge
mongate_upstream_up{upstream="orders",member="mongo-0:27017"} 1
mongate_upstream_up{upstream="orders",member="a\"b\\c\nd:1"} 0
# HELP mongate_pool_connections Upstream connections that clients share, by state: idle ones have no client.
# TYPE mongate_pool_connections gauge
mongate_pool_connections{upstream="orders",member="mongo-0:27017",state="idle"} 3
mongate_pool_connections{upstream="orders",member="mongo-0:27017",state="in_use"} 7
# HELP mongate_ready 1 if the gateway can serve traffic, as /readyz says, else 0.
# TYPE mongate_ready gauge
mongate_ready 1
# HELP mongate_ready_condition 1 if this condition of /readyz holds, else 0.
# TYPE mongate_ready_condition gauge
mongate_ready_condition{condition="serving"} 1
mongate_ready_condition{condition="listener stock"} 0
# HELP mongate_listener_ready 1 if the listener can serve clients, as /readyz?listener=NAME says, else 0.
# TYPE mongate_listener_ready gauge
mongate_listener_ready{listener="orders"} 1
mongate_listener_ready{listener="stock"} 0
# HELP mongate_config_pending_restart Changed configuration keys that take effect at the next restart.
# TYPE mongate_config_pending_restart gauge
mongate_config_pending_restart 2
# HELP mongate_policy_next_expiry_timestamp_seconds When the next rule of the policy expires, in seconds since 1970.
# TYPE mongate_policy_next_expiry_timestamp_seconds gauge
mongate_policy_next_expiry_timestamp_seconds 1796148000
"#;
        assert_eq!(gauges.render(), expected);
    }
}
