//! Reports how the Rust driver sees the members of a replica set, with the same steps as `tests/drivers/members.py`.

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

/// The driver's monitoring events.
#[derive(Default)]
struct Observed {
    topology: Option<TopologyDescription>,
    /// Addresses to which the driver sent a find.
    finds: Vec<String>,
}

/// A member as the driver sees it.
#[derive(Clone)]
struct Server {
    kind: &'static str,
    zone: Option<String>,
}

/// Runs all steps and returns the lines that the scripts in `tests/drivers` print.
pub async fn run(uri: &str, database: &str) -> Result<Vec<String>> {
    let observed = Arc::default();
    let client = open(uri, Duration::from_secs(20), &observed).await?;
    let mut lines = Vec::new();
    let mut say = |line: Value| lines.push(line.to_string());
    client.database("admin").run_command(doc! { "ping": 1 }).await?;
    let known = servers(&observed);
    let mut kinds: Vec<_> = known.values().map(|server| server.kind).collect();
    kinds.sort_unstable();
    let name = lock(&observed).topology.as_ref().and_then(TopologyDescription::set_name).cloned();
    say(json!({ "step": "topology", "name": name, "servers": kinds }));
    // Four members hold data, including the hidden one.
    let on_all_members = WriteConcern::builder().w(Acknowledgment::Nodes(4)).build();
    let on_all_members = CollectionOptions::builder().write_concern(on_all_members).build();
    let on_all_members = client.database(database).collection_with_options::<Document>("members", on_all_members);
    let written = on_all_members.insert_many((0..50).map(|id| doc! { "_id": id })).await?;
    say(json!({ "step": "written", "count": written.inserted_ids.len() }));
    let (count, by) = read(&observed, &collection(&client, database, None)).await?;
    let by: BTreeSet<_> = by.iter().map(|server| server.kind).collect();
    say(json!({ "step": "secondary", "by": by, "count": count }));
    for zone in ["south", "far"] {
        let (count, by) = read(&observed, &collection(&client, database, Some(zone))).await?;
        let by: BTreeSet<_> = by.iter().filter_map(|server| server.zone.as_deref()).collect();
        say(json!({ "step": "tagged", "by": by, "count": count }));
    }
    let short_timeout = open(uri, Duration::from_secs(1), &Arc::default()).await?;
    let hidden = collection(&short_timeout, database, Some("dark")).find_one(doc! {}).await;
    let found = match hidden.map_err(|error| *error.kind) {
        Err(ErrorKind::ServerSelection { .. }) => false,
        Ok(_) => true,
        Err(other) => panic!("expected a server selection error: {other}"),
    };
    say(json!({ "step": "hidden", "found": found }));
    client.database(database).drop().await?;
    say(json!({ "step": "addresses", "all": known.keys().collect::<Vec<_>>() }));
    Ok(lines)
}

async fn open(uri: &str, selection_timeout: Duration, observed: &Arc<Mutex<Observed>>) -> Result<Client> {
    let mut options = ClientOptions::parse(uri).await?;
    options.server_selection_timeout = Some(selection_timeout);
    options.local_threshold = Some(Duration::from_secs(1));
    let listener = Arc::clone(observed);
    options.sdam_event_handler = Some(EventHandler::callback(move |event| {
        if let SdamEvent::TopologyDescriptionChanged(changed) = event {
            lock(&listener).topology = Some(changed.new_description);
        }
    }));
    let listener = Arc::clone(observed);
    options.command_event_handler = Some(EventHandler::callback(move |event| {
        if let CommandEvent::Started(started) = event
            && started.command_name == "find"
        {
            lock(&listener).finds.push(started.connection.address.to_string());
        }
    }));
    Client::with_options(options)
}

/// Returns all servers, once the driver knows the kind of each.
fn servers(observed: &Mutex<Observed>) -> BTreeMap<String, Server> {
    waiting::until("the driver knows all servers", || {
        let observed = lock(observed);
        let topology = observed.topology.as_ref()?;
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

/// Reads ten times; returns the total number of documents and the servers that were read from.
async fn read(observed: &Mutex<Observed>, from: &Collection<Document>) -> Result<(usize, Vec<Server>)> {
    lock(observed).finds.clear();
    let mut count = 0;
    for _ in 0..10 {
        count += from.find(doc! {}).batch_size(10).await?.try_collect::<Vec<_>>().await?.len();
    }
    let known = servers(observed);
    let by = lock(observed).finds.iter().map(|address| known[address].clone()).collect();
    Ok((count, by))
}

/// Returns the collection with read preference `secondary`, limited to one zone if given.
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

fn lock(observed: &Mutex<Observed>) -> std::sync::MutexGuard<'_, Observed> {
    observed.lock().unwrap_or_else(PoisonError::into_inner)
}
