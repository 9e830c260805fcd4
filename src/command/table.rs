//! The table of commands: every command of a MongoDB 6.0 server, and commands of other versions that drivers and shells
//! send.
//!
//! Taken from mongod's own list of commands. A name that is not in the table counts as [`OTHER`], so that the number of
//! names in metrics stays [`COMMANDS`], whatever clients send. Like mongod, compares names byte for byte; case matters.

use std::fmt;

use self::Class::{Admin, AdminRead, Auth, Cluster, Ddl, Handshake, Legacy, Read, Session, UserAdmin, Wrapper, Write};
use self::CollectionAt::{Field, First, FirstFullNamespace, None as Nowhere};

/// A command of the table, or [`OTHER`]; small enough to be kept for each request in flight.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandId(u16);

/// The number of [`CommandId`]s, including [`OTHER`]: the length of a table that they index.
pub const COMMANDS: usize = ROWS.len() + 1;

/// The id of every command that is not in the table.
#[expect(clippy::cast_possible_truncation, reason = "a few hundred rows")]
pub const OTHER: CommandId = CommandId(ROWS.len() as u16);

/// A command that is missing in the table and that the operator declares as known. The policy uses the class in the
/// configuration, not the one here.
pub static KNOWN: Command = Command { id: OTHER, name: "other", aliases: &[], class: Admin, collection: Nowhere };

/// One command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command {
    /// Its index into tables.
    pub id: CommandId,
    /// The name as MongoDB documents it.
    pub name: &'static str,
    /// Other names that mongod accepts for it.
    pub aliases: &'static [&'static str],
    /// What kind of command it is.
    pub class: Class,
    /// Where its body names the collection.
    pub collection: CollectionAt,
}

/// The kind of a command; each command has exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Needed by drivers and shells to establish a connection; reads no data and changes nothing.
    Handshake,
    /// Authenticates the client.
    Auth,
    /// Starts, refreshes and ends sessions and transactions; reaches no namespace.
    Session,
    /// Reads data or metadata. `aggregate` and `mapReduce` are in this class, although their body may ask for writes.
    Read,
    /// Writes documents.
    Write,
    /// Creates, changes and drops collections, views, indexes and databases.
    Ddl,
    /// Contains another command, whose class counts: `explain`.
    Wrapper,
    /// Reads the server's own state.
    AdminRead,
    /// Changes the server's own state, or shows the activity of other clients.
    Admin,
    /// Administers users and roles.
    UserAdmin,
    /// Replication, sharding, and commands that servers send to each other.
    Cluster,
    /// Removed from MongoDB; a 6.0 server answers nearly all of them with `CommandNotFound`.
    Legacy,
}

/// Where a command's body names its collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CollectionAt {
    /// Nowhere: the command has no collection, reaches a whole database or server, or names collections in its
    /// arguments.
    None,
    /// The value of the first element is the collection in `$db`. It is not always a string: `aggregate: 1` reaches the
    /// database.
    First,
    /// The value of the first element is `database.collection`, independently of `$db`.
    FirstFullNamespace,
    /// A top-level field of this name. For `filemd5` the field is a prefix: the collection is `<root>.chunks`.
    Field(&'static str),
}

/// The command with this name or alias, compared byte for byte.
///
/// Called for every message: hashes the name, and compares it with one other name usually, with a handful at most.
/// Ignores names that are longer than any in the table.
pub fn find(name: &[u8]) -> Option<&'static Command> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let mut slot = slot_of(name);
    while let Some((known, CommandId(row))) = SLOTS[slot] {
        if known.as_bytes() == name {
            return TABLE.get(usize::from(row));
        }
        slot = after(slot);
    }
    None
}

/// All commands of the table, in its order.
pub fn all() -> &'static [Command] {
    &TABLE
}

impl CommandId {
    /// The index into tables of commands: `0 <= index < COMMANDS`.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The canonical name of the command, or `other` for [`OTHER`].
    pub fn name(self) -> &'static str {
        self.command().map_or("other", |command| command.name)
    }

    /// The row of the table; `None` for [`OTHER`].
    pub fn command(self) -> Option<&'static Command> {
        TABLE.get(self.index())
    }
}

impl fmt::Debug for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The rows with their ids.
static TABLE: [Command; ROWS.len()] = {
    let mut table = [row("", &[], Legacy, Nowhere); ROWS.len()];
    let mut at = 0;
    while at < table.len() {
        table[at] = ROWS[at];
        table[at].id = id_of(at);
        at += 1;
    }
    table
};

/// A hash table of every name and alias, filled at compile time, with linear probing.
static SLOTS: [Option<(&str, CommandId)>; SLOT_COUNT] = {
    let mut slots = [None; SLOT_COUNT];
    let mut row = 0;
    while row < ROWS.len() {
        put(&mut slots, ROWS[row].name, id_of(row));
        let mut alias = 0;
        while alias < ROWS[row].aliases.len() {
            put(&mut slots, ROWS[row].aliases[alias], id_of(row));
            alias += 1;
        }
        row += 1;
    }
    slots
};

/// A power of two, nearly four times the number of names, so that collisions are rare.
const SLOT_COUNT: usize = 2048;

const fn put(slots: &mut [Option<(&'static str, CommandId)>; SLOT_COUNT], name: &'static str, id: CommandId) {
    let mut slot = slot_of(name.as_bytes());
    while slots[slot].is_some() {
        slot = after(slot);
    }
    slots[slot] = Some((name, id));
}

/// FNV-1a: for a few bytes it is faster than the setup of a stronger hash. Clients cannot add names to the table, so
/// chosen collisions are no concern.
const fn slot_of(name: &[u8]) -> usize {
    let mut hash: u32 = 0x811c_9dc5;
    let mut at = 0;
    while at < name.len() {
        hash = (hash ^ name[at] as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    // The high bits are mixed better.
    (hash ^ (hash >> 16)) as usize & (SLOT_COUNT - 1)
}

const fn after(slot: usize) -> usize {
    (slot + 1) & (SLOT_COUNT - 1)
}

const NAME_BYTES_MAX: usize = {
    let mut longest = 0;
    let mut row = 0;
    while row < ROWS.len() {
        if ROWS[row].name.len() > longest {
            longest = ROWS[row].name.len();
        }
        row += 1;
    }
    longest
};

#[expect(clippy::cast_possible_truncation, reason = "a few hundred rows")]
const fn id_of(row: usize) -> CommandId {
    CommandId(row as u16)
}

const fn row(name: &'static str, aliases: &'static [&'static str], class: Class, collection: CollectionAt) -> Command {
    Command { id: CommandId(0), name, aliases, class, collection }
}

/// The rows by class; an id is an index into them.
#[rustfmt::skip]
const ROWS: &[Command] = &[
    row("atlasVersion", &[], Handshake, Nowhere),
    row("availableQueryOptions", &["availablequeryoptions"], Handshake, Nowhere),
    row("buildInfo", &["buildinfo"], Handshake, Nowhere),
    row("connectionStatus", &[], Handshake, Nowhere),
    row("driverOIDTest", &[], Handshake, Nowhere),
    row("features", &[], Handshake, Nowhere),
    row("hello", &[], Handshake, Nowhere),
    row("isdbgrid", &[], Handshake, Nowhere),
    row("isMaster", &["ismaster"], Handshake, Nowhere),
    row("listCommands", &[], Handshake, Nowhere),
    row("ping", &[], Handshake, Nowhere),
    row("whatsmyuri", &[], Handshake, Nowhere),

    row("authenticate", &[], Auth, Nowhere),
    row("getnonce", &[], Auth, Nowhere),
    row("logout", &[], Auth, Nowhere),
    row("saslContinue", &[], Auth, Nowhere),
    row("saslStart", &[], Auth, Nowhere),

    row("abortTransaction", &[], Session, Nowhere),
    row("commitTransaction", &[], Session, Nowhere),
    row("endSessions", &[], Session, Nowhere),
    row("refreshSessions", &[], Session, Nowhere),
    row("startSession", &[], Session, Nowhere),

    row("aggregate", &[], Read, First),
    row("collStats", &["collstats"], Read, First),
    row("count", &[], Read, First),
    row("dataSize", &["datasize"], Read, FirstFullNamespace),
    row("dbHash", &["dbhash"], Read, Nowhere),
    row("dbStats", &["dbstats"], Read, Nowhere),
    row("distinct", &[], Read, First),
    row("filemd5", &[], Read, Field("root")),
    row("find", &[], Read, First),
    row("getMore", &[], Read, Field("collection")),
    row("killCursors", &[], Read, First),
    row("listCollections", &[], Read, Nowhere),
    row("listDatabases", &[], Read, Nowhere),
    row("listIndexes", &[], Read, First),
    row("listSearchIndexes", &[], Read, First),
    row("mapReduce", &["mapreduce"], Read, First),
    row("planCacheListFilters", &[], Read, First),
    row("validate", &[], Read, First),

    row("bulkWrite", &[], Write, Nowhere),
    row("delete", &[], Write, First),
    row("findAndModify", &["findandmodify"], Write, First),
    row("insert", &[], Write, First),
    row("update", &[], Write, First),

    row("cleanupStructuredEncryptionData", &[], Ddl, First),
    row("cloneCollectionAsCapped", &[], Ddl, First),
    row("collMod", &[], Ddl, First),
    row("compact", &[], Ddl, First),
    row("compactStructuredEncryptionData", &[], Ddl, First),
    row("convertToCapped", &[], Ddl, First),
    row("create", &[], Ddl, First),
    row("createIndexes", &[], Ddl, First),
    row("createSearchIndexes", &[], Ddl, First),
    row("drop", &[], Ddl, First),
    row("dropDatabase", &[], Ddl, Nowhere),
    row("dropIndexes", &["deleteIndexes"], Ddl, First),
    row("dropSearchIndex", &[], Ddl, First),
    row("reIndex", &[], Ddl, First),
    row("renameCollection", &[], Ddl, FirstFullNamespace),
    row("setIndexCommitQuorum", &[], Ddl, First),
    row("updateSearchIndex", &[], Ddl, First),

    row("explain", &[], Wrapper, Nowhere),

    row("connPoolStats", &[], AdminRead, Nowhere),
    row("connPoolSync", &["connpoolsync"], AdminRead, Nowhere),
    row("getAuditConfig", &[], AdminRead, Nowhere),
    row("getChangeStreamState", &[], AdminRead, Nowhere),
    row("getClusterParameter", &[], AdminRead, Nowhere),
    row("getCmdLineOpts", &[], AdminRead, Nowhere),
    row("getDefaultRWConcern", &[], AdminRead, Nowhere),
    row("getDiagnosticData", &[], AdminRead, Nowhere),
    row("getESERotateActiveKEKStatus", &[], AdminRead, Nowhere),
    row("getFreeMonitoringStatus", &[], AdminRead, Nowhere),
    row("getLog", &[], AdminRead, Nowhere),
    row("getParameter", &[], AdminRead, Nowhere),
    row("hostInfo", &[], AdminRead, Nowhere),
    row("lockInfo", &[], AdminRead, Nowhere),
    row("netstat", &[], AdminRead, Nowhere),
    row("oidcListKeys", &[], AdminRead, Nowhere),
    row("serverStatus", &[], AdminRead, Nowhere),
    row("top", &[], AdminRead, Nowhere),

    row("analyze", &[], Admin, First),
    row("analyzeShardKey", &[], Admin, FirstFullNamespace),
    row("appendOplogNote", &[], Admin, Nowhere),
    row("autoCompact", &[], Admin, Nowhere),
    row("autoSplitVector", &[], Admin, FirstFullNamespace),
    row("captrunc", &[], Admin, Nowhere),
    row("checkMetadataConsistency", &[], Admin, First),
    row("clearLog", &[], Admin, Nowhere),
    row("configureFailPoint", &[], Admin, Nowhere),
    row("configureQueryAnalyzer", &[], Admin, FirstFullNamespace),
    row("cpuload", &[], Admin, Nowhere),
    row("createUnsplittableCollection", &[], Admin, Nowhere),
    row("currentOp", &[], Admin, Nowhere),
    row("dbCheck", &[], Admin, First),
    row("dropConnections", &[], Admin, Nowhere),
    row("echo", &[], Admin, Nowhere),
    row("emptycapped", &[], Admin, Nowhere),
    row("eseRotateActiveKEK", &[], Admin, Nowhere),
    row("fsync", &[], Admin, Nowhere),
    row("fsyncUnlock", &[], Admin, Nowhere),
    row("getTrafficRecordingStatus", &[], Admin, Nowhere),
    row("godinsert", &[], Admin, Nowhere),
    row("httpClientRequest", &[], Admin, Nowhere),
    row("invalidateUserCache", &[], Admin, Nowhere),
    row("killAllSessions", &[], Admin, Nowhere),
    row("killAllSessionsByPattern", &[], Admin, Nowhere),
    row("killOp", &[], Admin, Nowhere),
    row("killSessions", &[], Admin, Nowhere),
    row("logApplicationMessage", &[], Admin, Nowhere),
    row("logMessage", &[], Admin, Nowhere),
    row("logRotate", &[], Admin, Nowhere),
    row("makeSnapshot", &[], Admin, Nowhere),
    row("oidcRefreshKeys", &[], Admin, Nowhere),
    row("pinHistoryReplicated", &[], Admin, Nowhere),
    row("planCacheClear", &[], Admin, First),
    row("planCacheClearFilters", &[], Admin, First),
    row("planCacheSetFilter", &[], Admin, First),
    row("profile", &[], Admin, Nowhere),
    row("reapLogicalSessionCacheNow", &[], Admin, Nowhere),
    row("refreshLogicalSessionCacheNow", &[], Admin, Nowhere),
    row("releaseMemory", &[], Admin, Nowhere),
    row("removeQuerySettings", &[], Admin, Nowhere),
    row("replSetTest", &[], Admin, Nowhere),
    row("replSetTestEgress", &[], Admin, Nowhere),
    row("rotateCertificates", &[], Admin, Nowhere),
    row("rotateFTDC", &[], Admin, Nowhere),
    row("setAuditConfig", &[], Admin, Nowhere),
    row("setChangeStreamState", &[], Admin, Nowhere),
    row("setClusterParameter", &[], Admin, Nowhere),
    row("setCommittedSnapshot", &[], Admin, Nowhere),
    row("setDefaultRWConcern", &[], Admin, Nowhere),
    row("setFeatureCompatibilityVersion", &[], Admin, Nowhere),
    row("setFreeMonitoring", &[], Admin, Nowhere),
    row("setParameter", &[], Admin, Nowhere),
    row("setProfilingFilterGlobally", &[], Admin, Nowhere),
    row("setQuerySettings", &[], Admin, Nowhere),
    row("setUserWriteBlockMode", &[], Admin, Nowhere),
    row("shutdown", &[], Admin, Nowhere),
    row("sleep", &[], Admin, Nowhere),
    row("splitVector", &[], Admin, FirstFullNamespace),
    row("stageDebug", &[], Admin, Nowhere),
    row("startRecordingTraffic", &[], Admin, Nowhere),
    row("startTrafficRecording", &[], Admin, Nowhere),
    row("stopRecordingTraffic", &[], Admin, Nowhere),
    row("stopTrafficRecording", &[], Admin, Nowhere),
    row("testDeprecation", &[], Admin, Nowhere),
    row("testDeprecationInVersion2", &[], Admin, Nowhere),
    row("testInternalTransactions", &[], Admin, Nowhere),
    row("testRemoval", &[], Admin, Nowhere),
    row("testReshardCloneCollection", &[], Admin, Nowhere),
    row("testVersion2", &[], Admin, Nowhere),
    row("testVersions1And2", &[], Admin, Nowhere),
    row("validateDBMetadata", &[], Admin, Nowhere),
    row("waitForFailPoint", &[], Admin, Nowhere),
    row("waitForOngoingChunkSplits", &[], Admin, Nowhere),
    row("whatsmysni", &[], Admin, Nowhere),
    row("_hashBSONElement", &[], Admin, Nowhere),

    row("createRole", &[], UserAdmin, Nowhere),
    row("createUser", &[], UserAdmin, Nowhere),
    row("dropAllRolesFromDatabase", &[], UserAdmin, Nowhere),
    row("dropAllUsersFromDatabase", &[], UserAdmin, Nowhere),
    row("dropRole", &[], UserAdmin, Nowhere),
    row("dropUser", &[], UserAdmin, Nowhere),
    row("grantPrivilegesToRole", &[], UserAdmin, Nowhere),
    row("grantRolesToRole", &[], UserAdmin, Nowhere),
    row("grantRolesToUser", &[], UserAdmin, Nowhere),
    row("revokePrivilegesFromRole", &[], UserAdmin, Nowhere),
    row("revokeRolesFromRole", &[], UserAdmin, Nowhere),
    row("revokeRolesFromUser", &[], UserAdmin, Nowhere),
    row("rolesInfo", &[], UserAdmin, Nowhere),
    row("updateRole", &[], UserAdmin, Nowhere),
    row("updateUser", &[], UserAdmin, Nowhere),
    row("usersInfo", &[], UserAdmin, Nowhere),

    row("abortMoveCollection", &[], Cluster, FirstFullNamespace),
    row("abortReshardCollection", &[], Cluster, FirstFullNamespace),
    row("abortRewriteCollection", &[], Cluster, FirstFullNamespace),
    row("abortShardSplit", &[], Cluster, Nowhere),
    row("abortUnshardCollection", &[], Cluster, FirstFullNamespace),
    row("addShard", &[], Cluster, Nowhere),
    row("addShardToZone", &[], Cluster, Nowhere),
    row("applyOps", &[], Cluster, Nowhere),
    row("balancerCollectionStatus", &[], Cluster, FirstFullNamespace),
    row("balancerStart", &[], Cluster, Nowhere),
    row("balancerStatus", &[], Cluster, Nowhere),
    row("balancerStop", &[], Cluster, Nowhere),
    row("changePrimary", &[], Cluster, Nowhere),
    row("checkShardingIndex", &[], Cluster, FirstFullNamespace),
    row("cleanupOrphaned", &[], Cluster, FirstFullNamespace),
    row("cleanupReshardCollection", &[], Cluster, FirstFullNamespace),
    row("clearJumboFlag", &[], Cluster, FirstFullNamespace),
    row("clusterAbortTransaction", &[], Cluster, Nowhere),
    row("clusterAggregate", &[], Cluster, First),
    row("clusterCommitTransaction", &[], Cluster, Nowhere),
    row("clusterDelete", &[], Cluster, First),
    row("clusterFind", &[], Cluster, First),
    row("clusterGetMore", &[], Cluster, Field("collection")),
    row("clusterInsert", &[], Cluster, First),
    row("clusterUpdate", &[], Cluster, First),
    row("commitReshardCollection", &[], Cluster, FirstFullNamespace),
    row("commitShardRemoval", &[], Cluster, Nowhere),
    row("commitShardSplit", &[], Cluster, Nowhere),
    row("commitTransitionToDedicatedConfigServer", &[], Cluster, Nowhere),
    row("configureCollectionBalancing", &[], Cluster, FirstFullNamespace),
    row("coordinateCommitTransaction", &[], Cluster, Nowhere),
    row("donorAbortMigration", &[], Cluster, Nowhere),
    row("donorForgetMigration", &[], Cluster, Nowhere),
    row("donorStartMigration", &[], Cluster, Nowhere),
    row("doTxn", &[], Cluster, Nowhere),
    row("enableSharding", &[], Cluster, FirstFullNamespace),
    row("flushRouterConfig", &["flushrouterconfig"], Cluster, Nowhere),
    row("forgetShardSplit", &[], Cluster, Nowhere),
    row("getDatabaseVersion", &[], Cluster, Nowhere),
    row("getShardMap", &[], Cluster, Nowhere),
    row("getShardVersion", &[], Cluster, FirstFullNamespace),
    row("getTransitionToDedicatedConfigServerStatus", &[], Cluster, Nowhere),
    row("internalRenameIfOptionsAndIndexesMatch", &[], Cluster, Nowhere),
    row("listShards", &[], Cluster, Nowhere),
    row("mergeAllChunksOnShard", &[], Cluster, FirstFullNamespace),
    row("mergeChunks", &[], Cluster, FirstFullNamespace),
    row("moveChunk", &[], Cluster, FirstFullNamespace),
    row("moveCollection", &[], Cluster, FirstFullNamespace),
    row("movePrimary", &[], Cluster, Nowhere),
    row("moveRange", &[], Cluster, FirstFullNamespace),
    row("multicast", &[], Cluster, Nowhere),
    row("prepareTransaction", &[], Cluster, Nowhere),
    row("recipientForgetMigration", &[], Cluster, Nowhere),
    row("recipientSyncData", &[], Cluster, Nowhere),
    row("recipientVoteImportedFiles", &[], Cluster, Nowhere),
    row("refineCollectionShardKey", &[], Cluster, FirstFullNamespace),
    row("removeShard", &[], Cluster, Nowhere),
    row("removeShardFromZone", &[], Cluster, Nowhere),
    row("repairShardedCollectionChunksHistory", &[], Cluster, FirstFullNamespace),
    row("replSetAbortPrimaryCatchUp", &[], Cluster, Nowhere),
    row("replSetFreeze", &[], Cluster, Nowhere),
    row("replSetGetConfig", &[], Cluster, Nowhere),
    row("replSetGetRBID", &[], Cluster, Nowhere),
    row("replSetGetStatus", &[], Cluster, Nowhere),
    row("replSetHeartbeat", &[], Cluster, Nowhere),
    row("replSetInitiate", &[], Cluster, Nowhere),
    row("replSetMaintenance", &[], Cluster, Nowhere),
    row("replSetReconfig", &[], Cluster, Nowhere),
    row("replSetRequestVotes", &[], Cluster, Nowhere),
    row("replSetResizeOplog", &[], Cluster, Nowhere),
    row("replSetStepDown", &[], Cluster, Nowhere),
    row("replSetStepUp", &[], Cluster, Nowhere),
    row("replSetSyncFrom", &[], Cluster, Nowhere),
    row("replSetUpdatePosition", &[], Cluster, Nowhere),
    row("resetPlacementHistory", &[], Cluster, Nowhere),
    row("reshardCollection", &[], Cluster, FirstFullNamespace),
    row("rewriteCollection", &[], Cluster, FirstFullNamespace),
    row("setAllowMigrations", &[], Cluster, FirstFullNamespace),
    row("setShardVersion", &[], Cluster, FirstFullNamespace),
    row("shardCollection", &[], Cluster, FirstFullNamespace),
    row("shardDrainingStatus", &[], Cluster, Nowhere),
    row("shardingState", &[], Cluster, Nowhere),
    row("split", &[], Cluster, FirstFullNamespace),
    row("splitChunk", &[], Cluster, FirstFullNamespace),
    row("startShardDraining", &[], Cluster, Nowhere),
    row("startTransitionToDedicatedConfigServer", &[], Cluster, Nowhere),
    row("stopShardDraining", &[], Cluster, Nowhere),
    row("stopTransitionToDedicatedConfigServer", &[], Cluster, Nowhere),
    row("transitionFromDedicatedConfigServer", &[], Cluster, Nowhere),
    row("transitionToDedicatedConfigServer", &[], Cluster, Nowhere),
    row("unshardCollection", &[], Cluster, FirstFullNamespace),
    row("untrackUnshardedCollection", &[], Cluster, FirstFullNamespace),
    row("updateZoneKeyRange", &[], Cluster, FirstFullNamespace),
    row("upgradeDowngradeViewlessTimeseries", &[], Cluster, Nowhere),
    row("voteAbortIndexBuild", &[], Cluster, Nowhere),
    row("voteCommitIndexBuild", &[], Cluster, Nowhere),
    row("_addShard", &[], Cluster, FirstFullNamespace),
    row("_configsvrAbortReshardCollection", &[], Cluster, FirstFullNamespace),
    row("_configsvrAddShard", &[], Cluster, FirstFullNamespace),
    row("_configsvrAddShardToZone", &[], Cluster, FirstFullNamespace),
    row("_configsvrBalancerCollectionStatus", &[], Cluster, FirstFullNamespace),
    row("_configsvrBalancerStart", &[], Cluster, FirstFullNamespace),
    row("_configsvrBalancerStatus", &[], Cluster, FirstFullNamespace),
    row("_configsvrBalancerStop", &[], Cluster, FirstFullNamespace),
    row("_configsvrCleanupReshardCollection", &[], Cluster, FirstFullNamespace),
    row("_configsvrClearJumboFlag", &[], Cluster, FirstFullNamespace),
    row("_configsvrCollMod", &[], Cluster, FirstFullNamespace),
    row("_configsvrCommitChunkMigration", &[], Cluster, FirstFullNamespace),
    row("_configsvrCommitChunksMerge", &[], Cluster, FirstFullNamespace),
    row("_configsvrCommitChunkSplit", &[], Cluster, FirstFullNamespace),
    row("_configsvrCommitMovePrimary", &[], Cluster, FirstFullNamespace),
    row("_configsvrCommitReshardCollection", &[], Cluster, FirstFullNamespace),
    row("_configsvrConfigureCollectionBalancing", &[], Cluster, FirstFullNamespace),
    row("_configsvrCreateDatabase", &[], Cluster, FirstFullNamespace),
    row("_configsvrEnsureChunkVersionIsGreaterThan", &[], Cluster, FirstFullNamespace),
    row("_configsvrMoveChunk", &[], Cluster, FirstFullNamespace),
    row("_configsvrMoveRange", &[], Cluster, FirstFullNamespace),
    row("_configsvrRefineCollectionShardKey", &[], Cluster, FirstFullNamespace),
    row("_configsvrRemoveChunks", &[], Cluster, FirstFullNamespace),
    row("_configsvrRemoveShard", &[], Cluster, FirstFullNamespace),
    row("_configsvrRemoveShardFromZone", &[], Cluster, FirstFullNamespace),
    row("_configsvrRemoveTags", &[], Cluster, FirstFullNamespace),
    row("_configsvrRenameCollectionMetadata", &[], Cluster, FirstFullNamespace),
    row("_configsvrRepairShardedCollectionChunksHistory", &[], Cluster, FirstFullNamespace),
    row("_configsvrReshardCollection", &[], Cluster, FirstFullNamespace),
    row("_configsvrRunRestore", &[], Cluster, FirstFullNamespace),
    row("_configsvrSetAllowMigrations", &[], Cluster, FirstFullNamespace),
    row("_configsvrSetClusterParameter", &[], Cluster, FirstFullNamespace),
    row("_configsvrSetUserWriteBlockMode", &[], Cluster, FirstFullNamespace),
    row("_configsvrUpdateZoneKeyRange", &[], Cluster, FirstFullNamespace),
    row("_flushDatabaseCacheUpdates", &[], Cluster, FirstFullNamespace),
    row("_flushDatabaseCacheUpdatesWithWriteConcern", &[], Cluster, FirstFullNamespace),
    row("_flushReshardingStateChange", &[], Cluster, FirstFullNamespace),
    row("_flushRoutingTableCacheUpdates", &[], Cluster, FirstFullNamespace),
    row("_flushRoutingTableCacheUpdatesWithWriteConcern", &[], Cluster, FirstFullNamespace),
    row("_getNextSessionMods", &[], Cluster, FirstFullNamespace),
    row("_getUserCacheGeneration", &[], Cluster, FirstFullNamespace),
    row("_isSelf", &[], Cluster, Nowhere),
    row("_killOperations", &[], Cluster, FirstFullNamespace),
    row("_mergeAuthzCollections", &[], Cluster, FirstFullNamespace),
    row("_migrateClone", &[], Cluster, FirstFullNamespace),
    row("_recvChunkAbort", &[], Cluster, FirstFullNamespace),
    row("_recvChunkCommit", &[], Cluster, FirstFullNamespace),
    row("_recvChunkReleaseCritSec", &[], Cluster, FirstFullNamespace),
    row("_recvChunkStart", &[], Cluster, FirstFullNamespace),
    row("_recvChunkStatus", &[], Cluster, FirstFullNamespace),
    row("_shardsvrAbortReshardCollection", &[], Cluster, FirstFullNamespace),
    row("_shardsvrCleanupReshardCollection", &[], Cluster, FirstFullNamespace),
    row("_shardsvrCloneCatalogData", &[], Cluster, FirstFullNamespace),
    row("_shardsvrCollMod", &[], Cluster, FirstFullNamespace),
    row("_shardsvrCollModParticipant", &[], Cluster, FirstFullNamespace),
    row("_shardsvrCommitReshardCollection", &[], Cluster, FirstFullNamespace),
    row("_shardsvrCompactStructuredEncryptionData", &[], Cluster, FirstFullNamespace),
    row("_shardsvrCreateCollection", &[], Cluster, FirstFullNamespace),
    row("_shardsvrCreateCollectionParticipant", &[], Cluster, FirstFullNamespace),
    row("_shardsvrDropCollection", &[], Cluster, FirstFullNamespace),
    row("_shardsvrDropCollectionIfUUIDNotMatching", &[], Cluster, FirstFullNamespace),
    row("_shardsvrDropCollectionParticipant", &[], Cluster, FirstFullNamespace),
    row("_shardsvrDropDatabase", &[], Cluster, FirstFullNamespace),
    row("_shardsvrDropDatabaseParticipant", &[], Cluster, FirstFullNamespace),
    row("_shardsvrDropIndexes", &[], Cluster, FirstFullNamespace),
    row("_shardsvrGetStatsForBalancing", &[], Cluster, FirstFullNamespace),
    row("_shardsvrJoinMigrations", &[], Cluster, FirstFullNamespace),
    row("_shardsvrMovePrimary", &[], Cluster, FirstFullNamespace),
    row("_shardsvrMoveRange", &[], Cluster, FirstFullNamespace),
    row("_shardsvrParticipantBlock", &[], Cluster, FirstFullNamespace),
    row("_shardsvrRefineCollectionShardKey", &[], Cluster, FirstFullNamespace),
    row("_shardsvrRenameCollection", &[], Cluster, FirstFullNamespace),
    row("_shardsvrRenameCollectionParticipant", &[], Cluster, FirstFullNamespace),
    row("_shardsvrRenameCollectionParticipantUnblock", &[], Cluster, FirstFullNamespace),
    row("_shardsvrReshardCollection", &[], Cluster, FirstFullNamespace),
    row("_shardsvrReshardingOperationTime", &[], Cluster, FirstFullNamespace),
    row("_shardsvrSetAllowMigrations", &[], Cluster, FirstFullNamespace),
    row("_shardsvrSetClusterParameter", &[], Cluster, FirstFullNamespace),
    row("_shardsvrSetUserWriteBlockMode", &[], Cluster, FirstFullNamespace),
    row("_transferMods", &[], Cluster, FirstFullNamespace),

    row("clone", &[], Legacy, Nowhere),
    row("cloneCollection", &[], Legacy, FirstFullNamespace),
    row("copydb", &[], Legacy, Nowhere),
    row("eval", &[], Legacy, Nowhere),
    row("geoNear", &[], Legacy, First),
    row("geoSearch", &[], Legacy, First),
    row("getLastError", &["getlasterror"], Legacy, Nowhere),
    row("group", &[], Legacy, Nowhere),
    row("parallelCollectionScan", &[], Legacy, First),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_not_longer_than_the_limit() {
        let names =
            || all().iter().flat_map(|command| [command.name].into_iter().chain(command.aliases.iter().copied()));
        assert_eq!(names().collect::<std::collections::BTreeSet<_>>().len(), names().count());
        assert!(names().all(|name| name.len() <= NAME_BYTES_MAX));
    }

    #[test]
    fn a_lookup_compares_few_names() {
        let mut longest_run = 0;
        for start in 0..SLOT_COUNT {
            let run = (0..SLOT_COUNT).take_while(|step| SLOTS[(start + step) % SLOT_COUNT].is_some()).count();
            longest_run = longest_run.max(run);
        }
        assert!(longest_run <= 6, "{longest_run}");
    }

    #[test]
    fn every_name_and_alias_finds_its_row() {
        for (at, command) in all().iter().enumerate() {
            assert_eq!(command.id.index(), at);
            assert_eq!(command.id.name(), command.name);
            for name in [command.name].iter().chain(command.aliases) {
                assert_eq!(find(name.as_bytes()), Some(command), "{name}");
            }
        }
    }

    #[test]
    fn names_are_compared_byte_for_byte() {
        let cases: [&[u8]; 9] =
            [b"", b"Find", b"FIND", b"find ", b"find\0", b"fin", b"ISMASTER", b"fi\xffd", &[b'a'; 10_000]];
        for name in cases {
            assert_eq!(find(name), None, "{:?}", &name[..name.len().min(20)]);
        }
    }

    #[test]
    fn commands_have_the_class_and_the_collection_that_mongod_gives_them() {
        let cases: [(&[u8], &str, Class, CollectionAt); 12] = [
            (b"find", "find", Read, First),
            (b"ismaster", "isMaster", Handshake, Nowhere),
            (b"findandmodify", "findAndModify", Write, First),
            (b"getMore", "getMore", Read, Field("collection")),
            (b"renameCollection", "renameCollection", Ddl, FirstFullNamespace),
            (b"deleteIndexes", "dropIndexes", Ddl, First),
            (b"bulkWrite", "bulkWrite", Write, Nowhere),
            (b"abortTransaction", "abortTransaction", Session, Nowhere),
            (b"killAllSessions", "killAllSessions", Admin, Nowhere),
            (b"explain", "explain", Wrapper, Nowhere),
            (b"_isSelf", "_isSelf", Cluster, Nowhere),
            (b"eval", "eval", Legacy, Nowhere),
        ];
        for (name, canonical, class, collection) in cases {
            let command = find(name).unwrap();
            assert_eq!((command.name, command.class, command.collection), (canonical, class, collection));
        }
    }

    #[test]
    fn an_unknown_command_is_other_and_has_an_index() {
        assert_eq!(OTHER.name(), "other");
        assert_eq!(OTHER.command(), None);
        assert_eq!(OTHER.index() + 1, COMMANDS);
    }
}
