//! The grammar of pipelines: every known stage, and the collections that it names.
//!
//! This is an allow list: an unknown stage is refused, because a later server may give it a meaning. Expressions inside
//! stages name no collections and are not read.
//!
//! Spec: the MongoDB manual § Aggregation Stages, up to 8.0; forms tested with mongod 6.0.5.

use bson::raw::{RawArray, RawElement};

use super::known::KnownNames;
use super::meaning::Resource;
use super::names;
use super::reaches::Reaches;
use super::reader::Reader;
use super::stages;
use super::strict::{self, Fields, key};
use super::table::Class::{Admin, Read, Write};
use super::unclear::Unclear;

/// Adds the collection of an `aggregate` (or the database, for `aggregate: 1`), and what its stages name.
pub(super) fn aggregate(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    let (target, stages) = (reader.command_value()?, reader.fields.get("pipeline"));
    let stages = stages.and_then(strict::array).ok_or(Unclear::Pipeline)?;
    let position = if strict::is_one(target) {
        reader.reaches.add(Resource::Database(reader.database), Read)?;
        Position::OnDatabase
    } else {
        reader.own_collection(Read)?;
        Position::OnCollection
    };
    let database = reader.database;
    PipelineReader::new(reader).pipeline(stages, database, position, 0)
}

/// The pipeline of a view, which the server runs whenever the view is read.
pub(super) fn of_view<'a>(reader: &mut Reader<'a, '_>, stages: &'a RawArray) -> Result<(), Unclear> {
    let database = reader.database;
    PipelineReader::new(reader).pipeline(stages, database, Position::Nested, 0)
}

/// A pipeline of an update. Only a few stages are allowed, and none of them reaches beyond the document.
pub(super) fn of_update(stages: &RawArray) -> Result<(), Unclear> {
    for stage in strict::items(stages) {
        let (name, spec) = one_stage(&stage?)?;
        if !matches!(name, "$addFields" | "$project" | "$replaceRoot" | "$replaceWith" | "$set" | "$unset") {
            return Err(stages::known(name).map_or(Unclear::UnknownStage, Unclear::StagePosition));
        }
        no_key_twice(&spec)?;
    }
    Ok(())
}

/// The position of a pipeline.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    /// The pipeline of an `aggregate` on a collection.
    OnCollection,
    /// The pipeline of an `aggregate: 1`.
    OnDatabase,
    /// A pipeline inside another pipeline, or in a view.
    Nested,
}

struct PipelineReader<'a, 'w> {
    reaches: &'w mut Reaches<'a>,
    known: Option<&'w KnownNames>,
}

impl<'a, 'w> PipelineReader<'a, 'w> {
    fn new<'r: 'w>(reader: &'w mut Reader<'a, 'r>) -> Self {
        Self { known: reader.options.known, reaches: &mut reader.reaches }
    }

    /// `database` is the database of names that have none; `depth` is the number of enclosing pipelines.
    fn pipeline(
        &mut self,
        stages: &'a RawArray,
        database: &'a str,
        position: Position,
        depth: usize,
    ) -> Result<(), Unclear> {
        if depth > DEPTH_MAX {
            return Err(Unclear::TooDeep);
        }
        for stage in strict::items(stages) {
            let (name, spec) = one_stage(&stage?)?;
            match name {
                // A filter may contain the same key twice.
                "$match" => {}
                "$lookup" => self.lookup(&spec, database, depth)?,
                "$graphLookup" => self.graph_lookup(&spec, database)?,
                "$unionWith" => self.union_with(&spec, database, depth)?,
                "$facet" => self.facet(&spec, database, depth)?,
                "$out" => self.out(&spec, database)?,
                "$merge" => self.merge(&spec, database)?,
                "$changeStream" => self.change_stream(&spec, database, position)?,
                "$listClusterCatalog" => {
                    known_keys(name, &spec)?;
                    let resource =
                        if database == "admin" { Resource::WholeServer } else { Resource::WholeDatabase(database) };
                    self.reaches.add(resource, Read)?;
                }
                "$rankFusion" => self.fusion(&spec, "$rankFusion", database, depth)?,
                "$scoreFusion" => self.fusion(&spec, "$scoreFusion", database, depth)?,
                _ if stages::EXPOSES_SERVER.contains(&name) => {
                    known_keys(name, &spec)?;
                    self.reaches.add(Resource::WholeServer, Admin)?;
                    self.reaches.add_incidental(Resource::WholeServer, Read)?;
                }
                _ if stages::NAMES_NO_COLLECTION.contains(&name) => known_keys(name, &spec)?,
                _ if stages::is_internal(name) => {
                    self.reaches.unknown_stage = Some(name);
                    return Err(Unclear::InternalStage);
                }
                _ => {
                    let Some(class) = self.known.and_then(|known| known.class_of(name)) else {
                        self.reaches.unknown_stage = Some(name);
                        return Err(Unclear::UnknownStage);
                    };
                    self.reaches.add_known(class)?;
                }
            }
        }
        Ok(())
    }

    fn lookup(&mut self, spec: &RawElement<'a>, database: &'a str, depth: usize) -> Result<(), Unclear> {
        const FORM: Unclear = Unclear::Stage("$lookup");
        let spec = Fields::of(strict::document(spec).ok_or(FORM)?)?;
        if !spec.are_among(&["from", "localField", "foreignField", "as", "let", "pipeline"]) {
            return Err(FORM);
        }
        let foreign = match spec.get("from") {
            Some(from) => self.read_from(from, database, FORM)?,
            None if makes_its_own_documents(&spec) => database,
            None => return Err(FORM),
        };
        self.joined(&spec, foreign, depth)
    }

    fn union_with(&mut self, spec: &RawElement<'a>, database: &'a str, depth: usize) -> Result<(), Unclear> {
        const FORM: Unclear = Unclear::Stage("$unionWith");
        if let Some(collection) = strict::text(spec) {
            return self.reaches.add_collection(database, collection, Read);
        }
        let spec = Fields::of(strict::document(spec).ok_or(FORM)?)?;
        if !spec.are_among(&["coll", "pipeline"]) {
            return Err(FORM);
        }
        match spec.get("coll") {
            Some(collection) => {
                let collection = strict::text(collection).ok_or(Unclear::CollectionName)?;
                self.reaches.add_collection(database, collection, Read)?;
            }
            None if makes_its_own_documents(&spec) => {}
            None => return Err(FORM),
        }
        self.joined(&spec, database, depth)
    }

    /// The `pipeline` of a join. It runs in the database of the joined collection.
    fn joined(&mut self, spec: &Fields<'a>, database: &'a str, depth: usize) -> Result<(), Unclear> {
        match spec.get("pipeline") {
            Some(stages) => {
                let stages = strict::array(stages).ok_or(Unclear::Pipeline)?;
                self.pipeline(stages, database, Position::Nested, depth + 1)
            }
            None => Ok(()),
        }
    }

    fn graph_lookup(&mut self, spec: &RawElement<'a>, database: &'a str) -> Result<(), Unclear> {
        const FORM: Unclear = Unclear::Stage("$graphLookup");
        let spec = Fields::of(strict::document(spec).ok_or(FORM)?)?;
        let known = spec.are_among(&[
            "from",
            "startWith",
            "connectFromField",
            "connectToField",
            "as",
            "maxDepth",
            "depthField",
            "restrictSearchWithMatch",
        ]);
        match spec.get("from") {
            Some(from) if known => self.read_from(from, database, FORM).map(|_| ()),
            _ => Err(FORM),
        }
    }

    /// Reads `from`, a name or `{db, coll}`, and returns the database of the collection.
    fn read_from(&mut self, from: &RawElement<'a>, own: &'a str, form: Unclear) -> Result<&'a str, Unclear> {
        let (database, collection) = match strict::text(from) {
            Some(collection) => (own, collection),
            None => named(from, &["db", "coll"], None, form)?,
        };
        self.reaches.add_collection(database, collection, Read)?;
        Ok(database)
    }

    fn facet(&mut self, spec: &RawElement<'a>, database: &'a str, depth: usize) -> Result<(), Unclear> {
        let facets = strict::document(spec).ok_or(Unclear::Stage("$facet"))?;
        for facet in Fields::of(facets)?.iter() {
            let stages = strict::array(facet).ok_or(Unclear::Pipeline)?;
            self.pipeline(stages, database, Position::Nested, depth + 1)?;
        }
        Ok(())
    }

    /// The stage runs several pipelines on the collection of the command and merges their results.
    fn fusion(
        &mut self,
        spec: &RawElement<'a>,
        name: &'static str,
        database: &'a str,
        depth: usize,
    ) -> Result<(), Unclear> {
        let form = Unclear::Stage(name);
        let spec = Fields::of(strict::document(spec).ok_or(form)?)?;
        let input = Fields::of(spec.get("input").and_then(strict::document).ok_or(form)?)?;
        let is_known = spec.are_among(&["input", "combination", "scoreDetails"])
            && input.are_among(&["pipelines", "normalization"]);
        match input.get("pipelines") {
            Some(pipelines) if is_known => self.facet(pipelines, database, depth),
            _ => Err(form),
        }
    }

    fn out(&mut self, spec: &RawElement<'a>, database: &'a str) -> Result<(), Unclear> {
        let (database, collection) = match strict::text(spec) {
            Some(collection) => (database, collection),
            None => named(spec, &["db", "coll", "timeseries"], None, Unclear::Stage("$out"))?,
        };
        self.reaches.add_collection(database, collection, Write)
    }

    fn merge(&mut self, spec: &RawElement<'a>, database: &'a str) -> Result<(), Unclear> {
        const FORM: Unclear = Unclear::Stage("$merge");
        if let Some(collection) = strict::text(spec) {
            self.reaches.add_collection(database, collection, Write)?;
            return self.reaches.add_collection(database, collection, Read);
        }
        let spec = Fields::of(strict::document(spec).ok_or(FORM)?)?;
        if !spec.are_among(&["into", "on", "let", "whenMatched", "whenNotMatched"]) {
            return Err(FORM);
        }
        let into = spec.get("into").ok_or(FORM)?;
        let (database, collection) = match strict::text(into) {
            Some(collection) => (database, collection),
            None => named(into, &["db", "coll"], Some(database), FORM)?,
        };
        self.reaches.add_collection(database, collection, Write)?;
        match spec.get("whenMatched").map(|when| (strict::array(when), strict::text(when))) {
            // The stage does not read the existing document.
            Some((None, Some("replace" | "keepExisting" | "fail"))) => return Ok(()),
            None | Some((None, Some(_))) => {}
            Some((Some(stages), _)) => of_update(stages)?,
            Some((None, None)) => return Err(FORM),
        }
        self.reaches.add_collection(database, collection, Read)
    }

    /// A change stream on the aggregated collection, on its database, or on the cluster.
    fn change_stream(&mut self, spec: &RawElement<'a>, database: &'a str, position: Position) -> Result<(), Unclear> {
        const FORM: Unclear = Unclear::Stage("$changeStream");
        let spec = Fields::of(strict::document(spec).ok_or(FORM)?)?;
        let known = spec.are_among(&[
            "fullDocument",
            "fullDocumentBeforeChange",
            "resumeAfter",
            "startAfter",
            "startAtOperationTime",
            "allChangesForCluster",
            "ignoreRemovedShards",
            "matchCollectionUUIDForUpdateLookup",
            "showExpandedEvents",
            "version",
        ]);
        if !known {
            return Err(FORM);
        }
        let all = !strict::is_off(spec.get("allChangesForCluster"));
        match position {
            Position::Nested => Err(Unclear::StagePosition("$changeStream")),
            _ if all => self.reaches.add(Resource::WholeServer, Read),
            Position::OnDatabase => self.reaches.add(Resource::WholeDatabase(database), Read),
            Position::OnCollection => Ok(()),
        }
    }
}

/// The name and the value of a stage, which is a document with exactly one key.
fn one_stage<'a>(stage: &RawElement<'a>) -> Result<(&'a str, RawElement<'a>), Unclear> {
    let stage = strict::document(stage).ok_or(Unclear::Pipeline)?;
    let mut elements = strict::elements(stage);
    match (elements.next(), elements.next()) {
        (Some(only), None) => only.map(|only| (key(&only), only)),
        (_, Some(Err(broken))) => Err(broken),
        _ => Err(Unclear::Pipeline),
    }
}

/// The database and the collection of `{db, coll}`, which may only have these `keys`. Without `db`, the database is
/// `default`, if there is one.
fn named<'a>(
    element: &RawElement<'a>,
    keys: &[&str],
    default: Option<&'a str>,
    form: Unclear,
) -> Result<(&'a str, &'a str), Unclear> {
    let fields = Fields::of(strict::document(element).ok_or(form)?)?;
    if !fields.are_among(keys) {
        return Err(form);
    }
    let database = match fields.get("db") {
        Some(database) => names::database(strict::text(database).ok_or(Unclear::DatabaseName)?)?,
        None => default.ok_or(form)?,
    };
    let collection = fields.get("coll").and_then(strict::text).ok_or(Unclear::CollectionName)?;
    Ok((database, collection))
}

/// Whether a join needs no collection, because its pipeline begins with `$documents`.
fn makes_its_own_documents(spec: &Fields<'_>) -> bool {
    let stages = spec.get("pipeline").and_then(strict::array);
    let first = stages.and_then(|stages| strict::items(stages).next()?.ok());
    first.is_some_and(|first| matches!(one_stage(&first), Ok(("$documents", _))))
}

fn no_key_twice(spec: &RawElement<'_>) -> Result<(), Unclear> {
    strict::document(spec).map_or(Ok(()), |spec| Fields::of(spec).map(|_| ()))
}

/// Refuses a duplicate key, and a key that is not in the list of the stage. Servers send each other keys that contain
/// whole pipelines. A value that is not a document has no keys.
fn known_keys(stage: &str, spec: &RawElement<'_>) -> Result<(), Unclear> {
    let Some(spec) = strict::document(spec) else { return Ok(()) };
    let fields = Fields::of(spec)?;
    let is_known = match stages::KEYS.iter().find(|(stages, _)| stages.contains(&stage)) {
        Some((_, keys)) => fields.are_among(keys),
        // The keys of these stages are names of fields, or the value is an expression.
        None if matches!(stage, "$group" | "$sort") => !fields.iter().any(|field| key(field).starts_with('$')),
        None => !fields.iter().any(|field| key(field).starts_with("$_internal")),
    };
    if is_known { Ok(()) } else { Err(stages::known(stage).map_or(Unclear::UnknownStage, Unclear::Stage)) }
}

/// mongod accepts 20 nested pipelines.
const DEPTH_MAX: usize = 32;
