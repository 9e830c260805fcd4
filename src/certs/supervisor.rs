//! Whatever watches over certificates, built together: how they follow their files and agents, and when they end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use crate::cluster::Upstream;
use crate::config::Config;
use crate::connection::Route;
use crate::lifecycle::drain::DrainWatch;
use crate::lifecycle::reload_status::ReloadRecord;
use crate::lifecycle::tasks::Tasks;
use crate::listener::Listener;

use super::expiry::Expiry;
use super::file_reload::{Reload, Rotation};
use super::owner::Owner;
use super::reading::Source;
use super::workload_follower::Follower;

/// Everything that minds the certificates in use.
pub struct Certificates {
    expiry: Arc<Expiry>,
    rotation: Rotation,
    followers: Vec<Follower>,
    records: BTreeMap<String, Arc<ReloadRecord>>,
}

impl Certificates {
    /// Minds those of all upstreams and listeners; logs what is doubtful about them and what is near its end.
    pub fn new(config: &Config, upstreams: &[Arc<Upstream>], listeners: &[(Listener, Arc<Route>)]) -> Self {
        let routes = || routes_of(listeners);
        let owners = upstreams.iter().flat_map(Owner::credentials_of);
        let owners: Vec<_> = owners.chain(routes().filter_map(Owner::listener_of)).collect();
        let now = SystemTime::now();
        for owner in &owners {
            owner.tell_findings(now);
        }
        let expiry = Arc::new(Expiry::new(owners));
        expiry.look(now);

        let of_upstream = |upstream: &Arc<Upstream>| {
            let credentials = 0..upstream.credentials().len();
            credentials.filter_map(|credential| Source::of_upstream(upstream, credential)).collect::<Vec<_>>()
        };
        let of_listener = |route: &Arc<Route>| {
            let section = config.listeners.get(&route.listener)?.tls.as_ref()?;
            Some(Source::of_listener(route, section))
        };
        let (mut rotation, mut records) = (Rotation::new(Arc::clone(&expiry)), BTreeMap::new());
        for source in upstreams.iter().flat_map(of_upstream).chain(routes().filter_map(of_listener)) {
            records.insert(source.owner.title(), rotation.add(source));
        }
        let mut followers = Vec::new();
        for upstream in upstreams {
            if let Some((follower, record)) = rotation.add_agent(upstream) {
                records.insert(Owner::Upstream(Arc::clone(upstream), 0).title(), record);
                followers.push(follower);
            }
        }
        Self { expiry, rotation, followers, records }
    }

    /// What is known about renewals, by the title of the owner.
    pub fn records(&self) -> &BTreeMap<String, Arc<ReloadRecord>> {
        &self.records
    }

    /// That of one owner.
    pub fn record(&self, title: &str) -> Option<Arc<ReloadRecord>> {
        self.records.get(title).cloned()
    }

    /// Goes on among `tasks` until the drain begins, and returns the means to have all files read at once.
    pub fn run(self, tasks: &Tasks, drain: &DrainWatch) -> Reload {
        let reload = self.rotation.reload();
        tasks.spawn("certificate renewal", self.rotation.run(drain.clone()));
        for follower in self.followers {
            tasks.spawn("workload api", follower.run(drain.clone()));
        }
        let (expiry, drain) = (self.expiry, drain.clone());
        tasks.spawn("certificate expiry", async move { expiry.watch(drain).await });
        reload
    }
}

fn routes_of(listeners: &[(Listener, Arc<Route>)]) -> impl Iterator<Item = &Arc<Route>> {
    listeners.iter().filter(|(listener, _)| listener.slot() == 0).map(|(_, route)| route)
}
