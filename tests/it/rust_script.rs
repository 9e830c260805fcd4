//! The driver script for the official Rust driver, with the same steps as the scripts in `tests/drivers`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bson::{Bson, Document, doc};
use futures::future::join_all;
use futures::io::{AsyncReadExt, AsyncWriteExt};
use futures::{StreamExt, TryStreamExt};
use mongodb::error::{Error, ErrorKind};
use mongodb::event::EventHandler;
use mongodb::event::command::CommandEvent;
use mongodb::options::{ClientOptions, ReturnDocument};
use mongodb::{Client, Collection, Database, IndexModel};
use serde_json::{Value, json};

/// Result of one run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// One line per step, as the other scripts print it.
    pub lines: Vec<String>,
    /// How often the driver sent each command.
    pub commands: BTreeMap<String, u64>,
}

type Counts = Arc<Mutex<BTreeMap<String, u64>>>;
type Result<T> = mongodb::error::Result<T>;

struct Script {
    uri: String,
    client: Client,
    db: Database,
    numbers: Collection<Document>,
    counts: Counts,
    lines: Vec<String>,
}

/// Runs the script against `uri` in `database`, and drops the database at the end.
pub async fn run(uri: &str, database: &str) -> Result<Outcome> {
    let counts = Counts::default();
    let client = open(uri, None, &counts).await?;
    let db = client.database(database);
    let numbers = db.collection("numbers");
    let mut script = Script { uri: uri.to_owned(), client, db, numbers, counts, lines: Vec::new() };
    script.write_and_read().await?;
    script.change().await?;
    script.aggregate().await?;
    script.indexes().await?;
    script.bulk().await?;
    script.unacknowledged().await?;
    script.gridfs().await?;
    script.large().await?;
    script.databases().await?;
    script.errors().await?;
    script.sessions().await?;
    if script.db.run_command(doc! { "hello": 1 }).await?.contains_key("setName") {
        script.transactions().await?;
        script.change_stream().await?;
    }
    script.concurrent().await?;
    script.db.drop().await?;
    let Script { client, db, numbers, counts, lines, .. } = script;
    // The client sends endSessions when its last handle is dropped.
    drop((db, numbers));
    client.shutdown().await;
    let commands = counts.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(Outcome { lines, commands })
}

async fn open(uri: &str, max_pool_size: Option<u32>, counts: &Counts) -> Result<Client> {
    let mut options = ClientOptions::parse(uri).await?;
    options.max_pool_size = max_pool_size.or(options.max_pool_size);
    let counts = Arc::clone(counts);
    options.command_event_handler = Some(EventHandler::callback(move |event| {
        if let CommandEvent::Started(event) = event {
            *counts.lock().unwrap_or_else(PoisonError::into_inner).entry(event.command_name).or_default() += 1;
        }
    }));
    Client::with_options(options)
}

impl Script {
    fn say(&mut self, step: &str, mut facts: Value) {
        facts["step"] = json!(step);
        self.lines.push(facts.to_string());
    }

    async fn write_and_read(&mut self) -> Result<()> {
        let ping = self.db.run_command(doc! { "ping": 1 }).await?;
        self.say("ping", json!({ "ok": integer(&ping, "ok") }));
        let hello = self.db.run_command(doc! { "hello": 1 }).await?;
        let limits = (integer(&hello, "maxBsonObjectSize"), integer(&hello, "maxMessageSizeBytes"));
        self.say("limits", json!({ "document": limits.0, "message": limits.1 }));

        self.numbers.insert_one(doc! { "_id": 0, "n": 0, "group": 0, "text": "item 0" }).await?;
        let item = |i: i32| doc! { "_id": i, "n": i, "group": i % 7, "text": format!("item {i}") };
        let inserted = self.numbers.insert_many((1..20_000).map(item)).await?.inserted_ids.len();
        self.say("insert", json!({ "inserted": inserted }));

        let some = self.numbers.find(doc! { "n": { "$gte": 10, "$lt": 15 } });
        let found: Vec<_> =
            some.projection(doc! { "_id": 0, "n": 1 }).sort(doc! { "n": -1 }).await?.try_collect().await?;
        self.say("find", json!({ "n": integers(&found, "n") }));
        let one = self.numbers.find_one(doc! { "_id": 4711 }).await?.unwrap();
        let missing = self.numbers.find_one(doc! { "_id": -1 }).await?.is_none();
        self.say("find_one", json!({ "text": one.get_str("text").unwrap(), "missing": missing }));

        let thousand = self.numbers.find(doc! {}).sort(doc! { "_id": 1 }).limit(1000).batch_size(10);
        let batches: Vec<Document> = thousand.await?.try_collect().await?;
        let sum: i64 = integers(&batches, "n").iter().sum();
        self.say("batches", json!({ "count": batches.len(), "sum": sum }));
        let early = self.numbers.find(doc! {}).sort(doc! { "_id": 1 }).batch_size(5).await?;
        let taken: Vec<_> = early.take(7).try_collect().await?;
        self.say("early_close", json!({ "n": integers(&taken, "n") }));
        let documents = self.numbers.count_documents(doc! { "group": 3 }).await?;
        let estimated = self.numbers.estimated_document_count().await?;
        self.say("counts", json!({ "documents": documents, "estimated": estimated }));
        let mut groups: Vec<_> = self.numbers.distinct("group", doc! {}).await?.iter().map(as_integer).collect();
        groups.sort_unstable();
        self.say("distinct", json!({ "groups": groups }));
        Ok(())
    }

    async fn change(&mut self) -> Result<()> {
        let numbers = &self.numbers;
        let one = numbers.update_one(doc! { "_id": 1 }, doc! { "$set": { "text": "one" } }).await?;
        let many = numbers.update_many(doc! { "group": 5 }, doc! { "$inc": { "n": 1 } }).await?;
        let upsert = numbers.update_one(doc! { "_id": "new" }, doc! { "$set": { "n": -1 } }).upsert(true).await?;
        let upserted = upsert.upserted_id.as_ref().and_then(Bson::as_str);
        let updated = json!({ "one": one.modified_count, "many": many.modified_count, "upserted": upserted });
        let add = numbers.find_one_and_update(doc! { "_id": 2 }, doc! { "$inc": { "n": 40 } });
        let after = add.return_document(ReturnDocument::After).await?.unwrap();
        let removed = numbers.find_one_and_delete(doc! { "_id": "new" }).await?.unwrap();
        let replaced = numbers.replace_one(doc! { "_id": 3 }, doc! { "n": 33 }).await?.modified_count;
        let (after, removed) = (integer(&after, "n"), integer(&removed, "n"));
        let many = numbers.delete_many(doc! { "_id": { "$gte": 19_990 } }).await?.deleted_count;
        let one = numbers.delete_one(doc! { "_id": 0 }).await?.deleted_count;
        self.say("update", updated);
        self.say("find_and_modify", json!({ "after": after, "removed": removed, "replaced": replaced }));
        self.say("delete", json!({ "one": one, "many": many }));
        Ok(())
    }

    async fn aggregate(&mut self) -> Result<()> {
        let groups = self.db.collection("groups");
        groups.insert_many((0..7).map(|i| doc! { "_id": i, "name": format!("group {i}") })).await?;
        let grouping = [
            doc! { "$match": { "_id": { "$lt": 100 } } },
            doc! { "$group": { "_id": "$group", "n": { "$sum": "$n" } } },
            doc! { "$sort": { "n": 1 } },
        ];
        let grouped: Vec<_> = self.numbers.aggregate(grouping).await?.try_collect().await?;
        self.say("group", json!({ "sums": integers(&grouped, "n") }));
        let joining = [
            doc! { "$match": { "_id": { "$in": [8, 9] } } },
            doc! { "$lookup": { "from": "groups", "localField": "group", "foreignField": "_id", "as": "found" } },
            doc! { "$sort": { "_id": 1 } },
            doc! { "$project": { "name": { "$first": "$found.name" } } },
        ];
        let joined: Vec<Document> = self.numbers.aggregate(joining).await?.try_collect().await?;
        let names: Vec<_> = joined.iter().map(|document| document.get_str("name").unwrap()).collect();
        self.say("lookup", json!({ "names": names }));
        self.numbers.aggregate([doc! { "$match": { "group": 2 } }, doc! { "$out": "second" }]).await?;
        let count = self.db.collection::<Document>("second").count_documents(doc! {}).await?;
        self.say("out", json!({ "count": count }));
        Ok(())
    }

    async fn indexes(&mut self) -> Result<()> {
        let mut created = Vec::new();
        for keys in [doc! { "n": 1 }, doc! { "group": 1, "text": -1 }] {
            created.push(self.numbers.create_index(IndexModel::builder().keys(keys).build()).await?.index_name);
        }
        let mut listed = self.numbers.list_index_names().await?;
        self.numbers.drop_index(&created[0]).await?;
        let mut left = self.numbers.list_index_names().await?;
        listed.sort_unstable();
        left.sort_unstable();
        self.say("indexes", json!({ "created": created, "listed": listed, "left": left }));
        Ok(())
    }

    /// The driver supports bulk writes only from MongoDB 8.0, so this sends the commands that other drivers send for a
    /// bulk write.
    async fn bulk(&mut self) -> Result<()> {
        for (name, ordered) in [("ordered", true), ("unordered", false)] {
            let documents = [1, 2, 1, 3].map(|id| doc! { "_id": id });
            let insert =
                self.db.run_command(doc! { "insert": name, "documents": documents.to_vec(), "ordered": ordered });
            let insert = insert.await?;
            let errors: Vec<[i64; 2]> = documents_in(&insert, "writeErrors")
                .map(|error| [integer(error, "index"), integer(error, "code")])
                .collect();
            let mut done = [0, 0];
            // An ordered bulk write stops at the failed insert.
            if !ordered {
                let update = vec![doc! { "q": { "_id": 2 }, "u": { "$set": { "n": 2 } } }];
                let update =
                    self.db.run_command(doc! { "update": name, "updates": update, "ordered": ordered }).await?;
                let delete = vec![doc! { "q": { "_id": 1 }, "limit": 1 }];
                let delete =
                    self.db.run_command(doc! { "delete": name, "deletes": delete, "ordered": ordered }).await?;
                done = [integer(&update, "nModified"), integer(&delete, "n")];
            }
            let facts =
                json!({ "errors": errors, "inserted": integer(&insert, "n"), "modified": done[0], "deleted": done[1] });
            self.say(&format!("bulk_{name}"), facts);
        }
        Ok(())
    }

    /// The driver does not support unacknowledged writes. mongod replies to these, but the reply has no result.
    async fn unacknowledged(&mut self) -> Result<()> {
        // A single connection, so that the reads come after the writes.
        let client = open(&self.uri, Some(1), &self.counts).await?;
        let db = client.database(self.db.name());
        let unacknowledged = doc! { "w": 0 };
        let insert = async |id: i32| {
            let documents = vec![doc! { "_id": id }];
            db.run_command(doc! { "insert": "silent", "documents": documents, "writeConcern": &unacknowledged }).await
        };
        for id in 0..100 {
            insert(id).await?;
        }
        // The duplicate key is not reported either.
        let acknowledged = insert(0).await?.contains_key("writeErrors");
        let update = vec![doc! { "q": {}, "u": { "$set": { "n": 1 } }, "multi": true }];
        db.run_command(doc! { "update": "silent", "updates": update, "writeConcern": &unacknowledged }).await?;
        let delete = vec![doc! { "q": { "_id": 99 }, "limit": 1 }];
        db.run_command(doc! { "delete": "silent", "deletes": delete, "writeConcern": &unacknowledged }).await?;
        let count = db.collection::<Document>("silent").count_documents(doc! { "n": 1 }).await?;
        self.say("unacknowledged", json!({ "acknowledged": acknowledged, "count": count }));
        drop(db);
        client.shutdown().await;
        Ok(())
    }

    async fn gridfs(&mut self) -> Result<()> {
        let content: Vec<u8> = (0..5_000_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let bucket = self.db.gridfs_bucket(None);
        let mut upload = bucket.open_upload_stream("file").await?;
        upload.write_all(&content).await?;
        upload.close().await?;
        let mut returned = Vec::new();
        bucket.open_download_stream(upload.id().clone()).await?.read_to_end(&mut returned).await?;
        self.say("gridfs", json!({ "length": returned.len(), "same": returned == content }));
        Ok(())
    }

    async fn large(&mut self) -> Result<()> {
        let large = self.db.collection::<Document>("large");
        large.insert_one(doc! { "_id": 0, "data": "d".repeat(15 * 1024 * 1024) }).await?;
        let found = large.find_one(doc! { "_id": 0 }).await?.unwrap();
        self.say("large_document", json!({ "length": found.get_str("data").unwrap().len() }));
        let batch = self.db.collection::<Document>("batch");
        let megabyte = "m".repeat(1_000_000);
        batch.insert_many((0..47).map(|id| doc! { "_id": id, "data": &megabyte })).await?;
        let total = doc! { "$group": { "_id": null, "bytes": { "$sum": { "$strLenBytes": "$data" } } } };
        let totals: Vec<_> = batch.aggregate([total]).await?.try_collect().await?;
        let count = batch.count_documents(doc! {}).await?;
        self.say("large_batch", json!({ "count": count, "bytes": integers(&totals, "bytes")[0] }));
        let read: Vec<Document> = batch.find(doc! { "_id": { "$lt": 20 } }).await?.try_collect().await?;
        let bytes: usize = read.iter().map(|document| document.get_str("data").unwrap().len()).sum();
        self.say("large_read", json!({ "bytes": bytes }));
        Ok(())
    }

    async fn databases(&mut self) -> Result<()> {
        let other = self.client.database(&format!("{}_other", self.db.name()));
        other.collection("first").insert_one(doc! { "_id": 1 }).await?;
        other.create_collection("second").await?;
        let mut collections = other.list_collection_names().await?;
        collections.sort_unstable();
        let names = self.own_databases().await?;
        self.say("databases", json!({ "collections": collections, "names": names }));
        other.drop().await?;
        let names = self.own_databases().await?;
        self.say("drop_database", json!({ "names": names }));
        Ok(())
    }

    async fn own_databases(&self) -> Result<Vec<String>> {
        let all = self.client.list_database_names().await?;
        let mut names: Vec<_> =
            all.iter().filter_map(|name| name.strip_prefix(self.db.name()).map(str::to_owned)).collect();
        names.sort_unstable();
        Ok(names)
    }

    async fn errors(&mut self) -> Result<()> {
        let (db, numbers) = (&self.db, &self.numbers);
        let get_more = doc! { "getMore": 4711_i64, "collection": "numbers" };
        let codes = json!({
            "command": code_of(db.run_command(doc! { "noSuchCommand": 1 })).await,
            "cursor": code_of(db.run_command(get_more)).await,
            "duplicate": code_of(numbers.insert_one(doc! { "_id": 5 })).await,
            "operator": code_of(numbers.find_one(doc! { "n": { "$noSuchOperator": 1 } })).await,
            "stage": code_of(numbers.aggregate([doc! { "$noSuchStage": {} }])).await,
        });
        self.say("errors", codes);
        Ok(())
    }

    async fn sessions(&mut self) -> Result<()> {
        let mut session = self.client.start_session().causal_consistency(true).await?;
        let collection = self.db.collection::<Document>("session");
        collection.insert_one(doc! { "_id": 1 }).session(&mut session).await?;
        let count = collection.count_documents(doc! {}).session(&mut session).await?;
        self.say("session", json!({ "count": count }));
        Ok(())
    }

    async fn transactions(&mut self) -> Result<()> {
        self.db.create_collection("account").await?;
        let account = self.db.collection::<Document>("account");
        let mut session = self.client.start_session().await?;
        session.start_transaction().await?;
        account.insert_many([doc! { "_id": 1 }, doc! { "_id": 2 }]).session(&mut session).await?;
        let before = account.count_documents(doc! {}).await?;
        session.commit_transaction().await?;
        let committed = account.count_documents(doc! {}).await?;
        session.start_transaction().await?;
        account.insert_one(doc! { "_id": 3 }).session(&mut session).await?;
        session.abort_transaction().await?;
        let aborted = account.count_documents(doc! {}).await?;
        self.say("transaction", json!({ "before": before, "committed": committed, "aborted": aborted }));
        Ok(())
    }

    async fn change_stream(&mut self) -> Result<()> {
        self.db.create_collection("watched").await?;
        let watched = self.db.collection::<Document>("watched");
        let stream = watched.watch().await?;
        watched.insert_many([doc! { "_id": 1 }, doc! { "_id": 2 }]).await?;
        watched.update_one(doc! { "_id": 1 }, doc! { "$set": { "n": 1 } }).await?;
        watched.delete_one(doc! { "_id": 2 }).await?;
        let events: Vec<_> = stream.take(4).try_collect().await?;
        let events: Vec<_> = events
            .iter()
            .map(|event| json!([event.operation_type, integer(event.document_key.as_ref().unwrap(), "_id")]))
            .collect();
        self.say("change_stream", json!({ "events": events }));
        Ok(())
    }

    async fn concurrent(&mut self) -> Result<()> {
        let busy = self.db.collection::<Document>("busy");
        let work = async |worker: i32| -> Result<i64> {
            let first = worker * 1000;
            for id in first..first + 50 {
                busy.insert_one(doc! { "_id": id, "n": 0 }).await?;
                busy.update_one(doc! { "_id": id }, doc! { "$inc": { "n": worker } }).await?;
            }
            let found = busy.find(doc! { "_id": { "$gte": first, "$lt": first + 50 } }).await?;
            Ok(integers(&found.try_collect::<Vec<_>>().await?, "n").iter().sum())
        };
        let sums: Result<Vec<i64>> = join_all((0..8).map(work)).await.into_iter().collect();
        let count = busy.count_documents(doc! {}).await?;
        self.say("concurrent", json!({ "count": count, "sums": sums? }));
        Ok(())
    }
}

fn as_integer(value: &Bson) -> i64 {
    match value {
        Bson::Int32(value) => i64::from(*value),
        Bson::Int64(value) => *value,
        // Only `ok` is a double.
        Bson::Double(value) if (*value - 1.0).abs() < f64::EPSILON => 1,
        other => panic!("{other} is not an integer"),
    }
}

fn integer(document: &Document, key: &str) -> i64 {
    as_integer(document.get(key).unwrap_or_else(|| panic!("no {key} in {document}")))
}

fn integers(documents: &[Document], key: &str) -> Vec<i64> {
    documents.iter().map(|document| integer(document, key)).collect()
}

fn documents_in<'a>(document: &'a Document, key: &str) -> impl Iterator<Item = &'a Document> {
    document.get_array(key).unwrap().iter().map(|value| value.as_document().unwrap())
}

async fn code_of<T>(action: impl IntoFuture<Output = Result<T>>) -> Option<i32> {
    let error: Error = action.await.err()?;
    match *error.kind {
        ErrorKind::Command(ref error) => Some(error.code),
        ErrorKind::Write(mongodb::error::WriteFailure::WriteError(ref error)) => Some(error.code),
        ref other => panic!("expected an error from the server: {other}"),
    }
}
