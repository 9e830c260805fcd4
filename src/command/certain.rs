//! What is certain about a command before its body has arrived: its name, and a resource that every form of it reaches.

use super::meaning::ReadOptions;
use super::read::command_named;
use super::table::Class::{self, Admin, AdminRead, Cluster, Ddl, Read, Session, UserAdmin, Write};
use super::table::{CollectionAt, Command};
use super::unclear::Unclear;

/// A reach that every form of a command has, or a form that is not understood. It is not
/// [incidental](super::Reach::incidental).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CertainReach {
    /// The reach has one of these classes.
    pub classes: &'static [Class],
    /// Whether its resource is the collection that the value of the first element names, in some database.
    pub is_first_value: bool,
}

/// Every class that a reach can have.
const ALL: [Class; 8] = [Read, Write, Ddl, Session, AdminRead, Admin, UserAdmin, Cluster];

/// The command of this name, or what is wrong with it: an unknown command is never understood, whatever its body says.
pub fn named(name: &[u8], options: ReadOptions<'_>) -> Result<&'static Command, Unclear> {
    command_named(std::str::from_utf8(name).map_err(|_| Unclear::NotBson)?, options)
}

/// What every form of `command` reaches. `None` for a command that some form needs no rule for, or whose reply can be
/// filtered, so that nothing is certain.
pub fn certain_reach(command: &Command) -> Option<CertainReach> {
    let is_first_value = command.collection == CollectionAt::First;
    let certain = match (command.name, command.class) {
        ("find" | "count" | "distinct", _) => CertainReach { classes: &[Read], is_first_value },
        (_, Write) => CertainReach { classes: &[Write], is_first_value },
        // Some of them name the collection that they change elsewhere.
        (_, Ddl) => CertainReach { classes: &[Ddl], is_first_value: false },
        // Some forms of them need no rule.
        ("getLog" | "getParameter" | "hostInfo" | "killSessions", _) => return None,
        ("aggregate" | "mapReduce", _) | (_, AdminRead | Admin | UserAdmin | Cluster) => {
            CertainReach { classes: &ALL, is_first_value: false }
        }
        _ => return None,
    };
    Some(certain)
}
