//! Watches the servers of an upstream: a health check for a single server, one monitor for each member of a set.

mod change_budget;
mod changes;
mod member;
mod seed_list;
mod set;

use std::sync::Arc;

use super::health_check;
use super::hello_watch;
use super::hello_watch::UseOfHello;
use super::pool_upkeep;
use super::slot_map::SlotMap;
use super::upstream::Upstream;
use crate::lifecycle::drain::DrainWatch;
use crate::lifecycle::tasks::Tasks;

use set::SetMonitor;

/// Starts the tasks that watch the servers of `upstream` and keep its spare connections. They run until the drain
/// begins.
///
/// `slot_maps` are those of all listeners that lead to this upstream. `use_of_hello` says what the hello replies of its
/// members are used for.
pub fn start(
    upstream: &Arc<Upstream>,
    slot_maps: Vec<Arc<SlotMap>>,
    use_of_hello: UseOfHello,
    tasks: &Tasks,
    drain: &DrainWatch,
) {
    if upstream.config().deployment.has_members() {
        tasks.spawn("set monitor", SetMonitor::new(upstream, slot_maps, use_of_hello, tasks, drain).run());
        return;
    }
    for status in &upstream.membership().members {
        for pool in &status.member.pools {
            pool_upkeep::start(pool, tasks, drain, std::future::pending());
        }
        tasks.spawn("upstream probe", health_check::run(Arc::clone(&status.member), drain.clone()));
        if use_of_hello == UseOfHello::AnswersClients {
            tasks.spawn("hello watch", hello_watch::run(Arc::clone(&status.member), drain.clone()));
        }
    }
}
