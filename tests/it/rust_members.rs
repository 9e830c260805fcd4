//! What the Rust driver makes of a replica set: the same steps as `tests/drivers/members.py`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bson::{Document, doc};
use futures::TryStreamExt;
use mongodb::error::{ErrorKind, Result};
use mongodb::event::EventHandler;
use mongodb::event::command::CommandEvent;
use mongodb::event::sdam::{SdamEvent, TopologyDescription, TopologyType};
use mongodb::options::{Acknowledgment, ClientOptions, CollectionOptions, ReadPreference, ReadPreferenceOptions};
use mongodb::options::{SelectionCriteria, ServerAddress, TagSet, WriteConcern};
use mongodb::{Client, Collection, ServerInfo, ServerType};
use serde_json::{Value, json};

use crate::kit::waiting;

/// What the driver tells of itself.
#[derive(Default)]
struct Told {
    topology: Option<TopologyDescription>,
    /// Addresses that a find was sent to.
    finds: Vec<String>,
}

/// A member, as the driver knows it.
#[derive(Clone)]
struct Server {
    kind: &'static str,
    zone: Option<String>,
}

/// Takes all steps and returns the lines that the other scripts print.
pub async fn run(uri: &str, database: &str) -> Result<Vec<String>> {
    let told = Arc::default();
    let client = open(uri, Duration::from_secs(20), &told).await?;
    let mut lines = Vec::new();
    let mut say = |line: Value| lines.push(line.to_string());
    client.database("admin").run_command(doc! { "ping": 1 }).await?;
    let known = servers(&told);
    let mut kinds: Vec<_> = known.values().map(|server| server.kind).collect();
    kinds.sort_unstable();
    let name = lock(&told).topology.as_ref().and_then(TopologyDescription::set_name).cloned();
    say(json!({ "step": "topology", "name": name, "servers": kinds }));
    // Four members hold data; the hidden one too.
    let everywhere = WriteConcern::builder().w(Acknowledgment::Nodes(4)).build();
    let everywhere = CollectionOptions::builder().write_concern(everywhere).build();
    let everywhere = client.database(database).collection_with_options::<Document>("members", everywhere);
    let written = everywhere.insert_many((0..50).map(|id| doc! { "_id": id })).await?;
    say(json!({ "step": "written", "count": written.inserted_ids.len() }));
    let (count, by) = read(&told, &collection(&client, database, None)).await?;
    let by: BTreeSet<_> = by.iter().map(|server| server.kind).collect();
    say(json!({ "step": "secondary", "by": by, "count": count }));
    for zone in ["south", "far"] {
        let (count, by) = read(&told, &collection(&client, database, Some(zone))).await?;
        let by: BTreeSet<_> = by.iter().filter_map(|server| server.zone.as_deref()).collect();
        say(json!({ "step": "tagged", "by": by, "count": count }));
    }
    let impatient = open(uri, Duration::from_secs(1), &Arc::default()).await?;
    let hidden = collection(&impatient, database, Some("dark")).find_one(doc! {}).await;
    let found = match hidden.map_err(|error| *error.kind) {
        Err(ErrorKind::ServerSelection { .. }) => false,
        Ok(_) => true,
        Err(other) => panic!("not what a missing member looks like: {other}"),
    };
    say(json!({ "step": "hidden", "found": found }));
    client.database(database).drop().await?;
    say(json!({ "step": "addresses", "all": known.keys().collect::<Vec<_>>() }));
    Ok(lines)
}

async fn open(uri: &str, patience: Duration, told: &Arc<Mutex<Told>>) -> Result<Client> {
    let mut options = ClientOptions::parse(uri).await?;
    options.server_selection_timeout = Some(patience);
    options.local_threshold = Some(Duration::from_secs(1));
    let listener = Arc::clone(told);
    options.sdam_event_handler = Some(EventHandler::callback(move |event| {
        if let SdamEvent::TopologyDescriptionChanged(changed) = event {
            lock(&listener).topology = Some(changed.new_description);
        }
    }));
    let listener = Arc::clone(told);
    options.command_event_handler = Some(EventHandler::callback(move |event| {
        if let CommandEvent::Started(started) = event
            && started.command_name == "find"
        {
            lock(&listener).finds.push(started.connection.address.to_string());
        }
    }));
    Client::with_options(options)
}

/// All servers, once the driver has heard of each what it is.
fn servers(told: &Mutex<Told>) -> BTreeMap<String, Server> {
    waiting::until("the driver knows all servers", || {
        let told = lock(told);
        let topology = told.topology.as_ref()?;
        let servers = topology.servers();
        let is_known = |server: &ServerInfo<'_>| server.server_type() != ServerType::Unknown;
        let is_complete = topology.topology_type() == TopologyType::ReplicaSetWithPrimary;
        let described = |(address, server): (&&ServerAddress, &ServerInfo<'_>)| {
            let zone = server.tags().and_then(|tags| tags.get("zone").cloned());
            (address.to_string(), Server { kind: kind(server), zone })
        };
        (is_complete && servers.values().all(is_known)).then(|| servers.iter().map(described).collect())
    })
}

/// What ten reads gave together, and which servers they came from.
async fn read(told: &Mutex<Told>, from: &Collection<Document>) -> Result<(usize, Vec<Server>)> {
    lock(told).finds.clear();
    let mut count = 0;
    for _ in 0..10 {
        count += from.find(doc! {}).batch_size(10).await?.try_collect::<Vec<_>>().await?.len();
    }
    let known = servers(told);
    let by = lock(told).finds.iter().map(|address| known[address].clone()).collect();
    Ok((count, by))
}

/// Read from secondaries, or from those of one zone.
fn collection(client: &Client, database: &str, zone: Option<&str>) -> Collection<Document> {
    let tags = zone.map(|zone| vec![TagSet::from([("zone".to_owned(), zone.to_owned())])]);
    let options = tags.map(|tags| ReadPreferenceOptions::builder().tag_sets(tags).build());
    let preference = SelectionCriteria::ReadPreference(ReadPreference::Secondary { options });
    let options = CollectionOptions::builder().selection_criteria(preference).build();
    client.database(database).collection_with_options("members", options)
}

fn kind(server: &ServerInfo<'_>) -> &'static str {
    match server.server_type() {
        ServerType::RsPrimary => "primary",
        ServerType::RsSecondary => "secondary",
        ServerType::RsArbiter => "arbiter",
        _ => "other",
    }
}

fn lock(told: &Mutex<Told>) -> std::sync::MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}
