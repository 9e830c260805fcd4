//! A second, independent reader that derives the same facts from the decoded document.
//!
//! It expects well-formed documents, which the generator makes.

use std::collections::BTreeSet;

use bson::{Bson, Document, RawDocumentBuf};
use proptest::prelude::*;

use super::generator::command;
use super::{reach_text, read_body, read_with};

/// The ids of the sessions that must be mapped, in any order; `None` if the command must be refused.
fn expected_sessions(body: &Document) -> Option<Vec<Vec<u8>>> {
    let command = body.get_document("explain").unwrap_or(body);
    let mut all: Vec<&Bson> = if body == command { Vec::new() } else { command.get("lsid").into_iter().collect() };
    all.extend(body.get("lsid"));
    let (name, value) = command.iter().next()?;
    let listed = value.as_array().filter(|_| name.ends_with("Sessions"));
    let is_plain = |session: &Bson| session.as_document().is_some_and(|session| session.len() == 1);
    match listed {
        Some(listed) if name != "killSessions" || listed.iter().all(is_plain) => all.extend(listed),
        _ => {}
    }
    let id = |session: &Bson| match session.as_document()?.get("id")? {
        Bson::Binary(id) => is_plain(session).then(|| id.bytes.clone()),
        _ => None,
    };
    let mut ids = all.into_iter().map(id).collect::<Option<Vec<_>>>()?;
    ids.sort();
    Some(ids)
}

/// `None` if the command must be refused.
type ExpectedReaches = Option<BTreeSet<String>>;

fn expected_reaches(body: &Document) -> ExpectedReaches {
    let db = body.get_str("$db").ok()?.to_owned();
    let command = body.get_document("explain").unwrap_or(body);
    let all_keys = body.keys().chain(command.keys());
    if all_keys.into_iter().any(|key| key == "fromMongos" || key.starts_with("$_")) {
        return None;
    }
    expected_sessions(body)?;
    let mut found = BTreeSet::new();
    let (name, value) = command.iter().next()?;
    let own = value.as_str().map(str::to_owned);
    let mut put = |class: &str, database: &str, collection: &str| note(&mut found, class, database, collection);
    match name.as_str() {
        "find" | "count" | "distinct" | "killCursors" => put("Read", &db, &own?),
        "getMore" => put("Read", &db, command.get_str("collection").ok()?),
        "insert" => put("Write", &db, &own?),
        "delete" | "update" | "findandmodify" => {
            put("Write", &db, &own.clone()?);
            put("Read", &db, &own?);
        }
        "create" | "collMod" => {
            put("Ddl", &db, &own.clone()?);
            if name == "collMod" {
                put("Read", &db, &own?);
            }
            put("Read", &db, command.get_str("viewOn").ok()?);
        }
        "cloneCollectionAsCapped" => {
            put("Read", &db, &own?);
            put("Ddl", &db, command.get_str("toCollection").ok()?);
            put("Write", &db, command.get_str("toCollection").ok()?);
        }
        "renameCollection" => {
            for (namespace, classes) in
                [(own?, ["Ddl", "Read"]), (command.get_str("to").ok()?.to_owned(), ["Ddl", "Write"])]
            {
                let dot = namespace.find('.')?;
                for class in classes {
                    put(class, &namespace[..dot], &namespace[dot + 1..]);
                }
            }
        }
        "dataSize" | "datasize" | "splitVector" | "moveChunk" => {
            let namespace = own?;
            let dot = namespace.find('.')?;
            let class = match name.as_str() {
                "splitVector" => "Admin",
                "moveChunk" => "Cluster",
                _ => "Read",
            };
            put(class, &namespace[..dot], &namespace[dot + 1..]);
            if class != "Read" {
                // The incidental read is of the innermost collection.
                let (database, mut collection) = (&namespace[..dot], &namespace[dot + 1..]);
                while let (Some(series), false) =
                    (collection.strip_prefix("system.buckets."), matches!(database, "local" | "config" | "admin"))
                {
                    collection = series;
                }
                let mut read = BTreeSet::new();
                note(&mut read, "Read", database, collection);
                found.extend(read.iter().map(|reach| format!("~{reach}")));
            }
        }
        "bulkWrite" => {
            let namespaces = command.get_array("nsInfo").ok()?;
            let mut put = |class: &str, at: usize| {
                let namespace = namespaces[at].as_document().unwrap().get_str("ns").unwrap();
                let dot = namespace.find('.').unwrap();
                note(&mut found, class, &namespace[..dot], &namespace[dot + 1..]);
            };
            (0..namespaces.len()).for_each(|at| put("Write", at));
            for operation in command.get_array("ops").ok()? {
                let (kind, at) = operation.as_document()?.iter().next()?;
                if kind != "insert" {
                    put("Read", usize::try_from(at.as_i32()?).unwrap());
                }
            }
        }
        "mapReduce" => {
            put("Read", &db, &own?);
            match command.get("out")? {
                Bson::String(target) => put("Write", &db, target),
                Bson::Document(out) if out.contains_key("inline") => {}
                Bson::Document(out) => {
                    let database = out.get_str("db").unwrap_or(&db);
                    let target = out.iter().find(|(key, _)| *key != "db")?.1;
                    put("Write", database, target.as_str()?);
                    if out.contains_key("reduce") {
                        put("Read", database, target.as_str()?);
                    }
                }
                _ => return None,
            }
            found.insert(format!("Read {db}.system.js [itself]"));
        }
        "dbHash" => {
            let names = command.get_array("collections").ok()?;
            if names.is_empty() {
                found.insert(format!("Read {db}.*"));
            }
            for name in names {
                note(&mut found, "Read", &db, name.as_str()?);
            }
        }
        "aggregate" => match own {
            Some(own) => put("Read", &db, &own),
            None => drop(found.insert(format!("Read {db}"))),
        },
        "listCollections" => drop(found.insert(format!("Read {db}.*"))),
        "dropDatabase" => drop(found.insert(format!("Ddl {db}.*"))),
        "listDatabases" => drop(found.insert("Read *".to_owned())),
        "currentOp" => found.extend(["Admin *".to_owned(), "~Read *".to_owned()]),
        "dbStats" => drop(found.insert(format!("Read {db}"))),
        "ping" => drop(found.insert(format!("Handshake {db}"))),
        "createUser" | "createRole" => {
            found.insert(format!("UserAdmin {db}"));
            for entry in command.get_array("roles").into_iter().chain(command.get_array("privileges")).flatten() {
                let Some(entry) = entry.as_document() else { continue };
                let resource = entry.get_document("resource").unwrap_or(entry);
                found.insert(format!("UserAdmin {}", resource.get_str("db").ok()?));
            }
        }
        "endSessions" | "refreshSessions" | "commitTransaction" | "abortTransaction" => {
            found.insert("Session -".to_owned());
        }
        "killSessions" => {
            let listed = value.as_array().unwrap();
            let is_own = |session: &Bson| !session.as_document().unwrap().contains_key("uid");
            let own = !listed.is_empty() && listed.iter().all(is_own);
            found.insert(if own { "Session -" } else { "Admin *" }.to_owned());
        }
        "killAllSessions" => drop(found.insert("Admin *".to_owned())),
        other => panic!("the generator made {other}"),
    }
    let stages = command.get_array("pipeline").map(Vec::as_slice).unwrap_or_default();
    let is_whole = name == "aggregate" && command.get_str("aggregate").is_err();
    for (index, stage) in stages.iter().enumerate() {
        let stream = stage.as_document()?.get_document("$changeStream");
        if let Ok(stream) = stream {
            assert_eq!(index, 0);
            if stream.contains_key("allChangesForCluster") {
                found.insert("Read *".to_owned());
            } else if is_whole {
                found.insert(format!("Read {db}.*"));
            }
        } else if !read_stage(&mut found, stage, &db) {
            return None;
        }
    }
    Some(found)
}

/// Adds everything that a stage and its nested stages reach. Returns whether the stage is accepted.
fn read_stage(found: &mut BTreeSet<String>, stage: &Bson, db: &str) -> bool {
    let stage = stage.as_document().unwrap();
    let (name, spec) = stage.iter().next().unwrap();
    let mut inside: (Vec<&Bson>, String) = (Vec::new(), db.to_owned());
    let target = |value: &Bson| match value {
        Bson::String(collection) => (db.to_owned(), collection.clone()),
        Bson::Document(both) => (both.get_str("db").unwrap().to_owned(), both.get_str("coll").unwrap().to_owned()),
        other => panic!("{other:?}"),
    };
    match name.as_str() {
        "$listCatalog" => return false,
        "$currentOp" => found.extend(["Admin *".to_owned(), "~Read *".to_owned()]),
        "$facet" => {
            for pipeline in spec.as_document().unwrap().iter().map(|(_, pipeline)| pipeline) {
                inside.0.extend(pipeline.as_array().unwrap());
            }
        }
        "$lookup" | "$graphLookup" => {
            let spec = spec.as_document().unwrap();
            if let Some(from) = spec.get("from") {
                let (database, collection) = target(from);
                note(found, "Read", &database, &collection);
                inside.1 = database;
            }
            inside.0.extend(spec.get_array("pipeline").into_iter().flatten());
        }
        "$unionWith" => {
            let collection = spec.as_str().unwrap_or_else(|| spec.as_document().unwrap().get_str("coll").unwrap());
            note(found, "Read", db, collection);
            let spec = spec.as_document();
            inside.0.extend(spec.into_iter().flat_map(|spec| spec.get_array("pipeline").unwrap()));
        }
        "$out" | "$merge" => {
            let into = spec.as_document().and_then(|spec| spec.get("into")).unwrap_or(spec);
            let (database, collection) = target(into);
            note(found, "Write", &database, &collection);
            let when = spec.as_document().and_then(|spec| spec.get("whenMatched"));
            if name == "$merge" && when != Some(&Bson::from("replace")) {
                note(found, "Read", &database, &collection);
            }
        }
        _ => {}
    }
    inside.0.into_iter().all(|stage| read_stage(found, stage, &inside.1))
}

fn note(found: &mut BTreeSet<String>, class: &str, database: &str, collection: &str) {
    if (class, collection) == ("Write", "system.views") {
        let is_special = matches!(database, "local" | "config" | "admin");
        let place = if is_special { "*".to_owned() } else { format!("{database}.*") };
        found.extend([format!("Ddl {place}"), format!("Read {place}")]);
    }
    let exposes = match (database, collection.starts_with("system."), collection.starts_with("system.buckets.")) {
        ("local" | "config", ..) | ("admin", true, _) => " [*]".to_owned(),
        (_, true, false) => format!(" [{database}.*]"),
        (_, true, true) => {
            note(found, class, database, &collection["system.buckets.".len()..]);
            String::new()
        }
        _ => String::new(),
    };
    found.insert(format!("{class} {database}.{collection}{exposes}"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn both_readers_agree_on_every_resource(body in command()) {
        let raw = RawDocumentBuf::try_from(&body).unwrap();
        let meaning = read_body(&raw);
        let understood = meaning.as_ref().ok();
        let reaches = understood.map(|meaning| meaning.reaches.iter().map(reach_text).collect::<BTreeSet<_>>());
        prop_assert_eq!(&reaches, &expected_reaches(&body), "{:?}", meaning);
        if let Ok(meaning) = meaning {
            prop_assert_eq!(reaches.unwrap().len(), meaning.reaches.len(), "a reach occurs twice");
            let mut sessions: Vec<_> = meaning.sessions.iter().map(|id| id.to_vec()).collect();
            sessions.sort();
            prop_assert_eq!(Some(sessions), expected_sessions(&body));
            let searched = read_with(&raw, &[], true).unwrap();
            prop_assert_eq!(searched.reaches, meaning.reaches);
            prop_assert_eq!(searched.javascript, meaning.command.name == "mapReduce");
        }
    }
}

/// Ensures that the comparison of both readers is not mostly about refused commands.
#[test]
fn most_generated_commands_are_understood_and_many_reach_forbidden_names() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let (mut runner, strategy) = (TestRunner::deterministic(), command());
    let (mut understood, mut forbidden) = (0, 0);
    for _ in 0..500 {
        let body = strategy.new_tree(&mut runner).unwrap().current();
        let Some(reaches) = expected_reaches(&body) else { continue };
        understood += 1;
        forbidden += usize::from(reaches.iter().any(|reach| reach.ends_with(".secret")));
    }
    assert!(understood > 250, "{understood}");
    assert!(forbidden > 50, "{forbidden}");
}
