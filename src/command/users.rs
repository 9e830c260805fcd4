//! Administration of users and roles: which databases their roles and privileges name.

use bson::raw::RawElement;

use super::meaning::{Exposes, Resource};
use super::names;
use super::reader::Reader;
use super::strict::{self, Fields};
use super::table::Class::{Read, UserAdmin};
use super::unclear::Unclear;

/// Adds the command's own database, and every other database that it names.
pub(super) fn administer(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    reader.reaches.add(Resource::Database(reader.database), UserAdmin)?;
    if matches!(reader.command.name, "usersInfo" | "rolesInfo") {
        info_target(reader, reader.command_value()?)?;
        // The reply shows documents of these collections, with `showCredentials` also the hashes of passwords.
        let collection = if reader.command.name == "usersInfo" { "system.users" } else { "system.roles" };
        let resource = Resource::SystemCollection { database: "admin", collection, exposes: Exposes::Itself };
        reader.reaches.add_incidental(resource, Read)?;
    }
    if let Some(roles) = reader.fields.get("roles") {
        let roles = strict::array(roles).ok_or(Unclear::Argument("roles"))?;
        strict::items(roles).try_for_each(|role| role_or_user(reader, &role?))?;
    }
    if let Some(privileges) = reader.fields.get("privileges") {
        let privileges = strict::array(privileges).ok_or(Unclear::Argument("privileges"))?;
        strict::items(privileges).try_for_each(|privilege| self::privilege(reader, &privilege?))?;
    }
    Ok(())
}

/// The argument of `usersInfo` and `rolesInfo`: one user or role, several, all of this database, or all of the server.
fn info_target<'a>(reader: &mut Reader<'a, '_>, target: &RawElement<'a>) -> Result<(), Unclear> {
    match strict::array(target) {
        Some(several) => strict::items(several).try_for_each(|one| role_or_user(reader, &one?)),
        None if strict::is_number(target) => Ok(()),
        None => role_or_user(reader, target),
    }
}

/// A name in the command's database, or a document that names the database.
fn role_or_user<'a>(reader: &mut Reader<'a, '_>, element: &RawElement<'a>) -> Result<(), Unclear> {
    if strict::text(element).is_some() {
        return Ok(());
    }
    let fields = Fields::of(strict::document(element).ok_or(Unclear::Argument("roles"))?)?;
    if fields.get("forAllDBs").is_some() {
        return reader.reaches.add(Resource::WholeServer, UserAdmin);
    }
    let database = fields.get("db").and_then(strict::text).ok_or(Unclear::Argument("roles"))?;
    reader.reaches.add(Resource::Database(names::database(database)?), UserAdmin)
}

fn privilege<'a>(reader: &mut Reader<'a, '_>, element: &RawElement<'a>) -> Result<(), Unclear> {
    const FORM: Unclear = Unclear::Argument("privileges");
    let privilege = Fields::of(strict::document(element).ok_or(FORM)?)?;
    let resource = Fields::of(privilege.get("resource").and_then(strict::document).ok_or(FORM)?)?;
    // A resource without a database, or with an empty one, covers all databases: `cluster`, `anyResource`,
    // `system_buckets`.
    let database = match resource.get("db") {
        Some(database) => strict::text(database).ok_or(FORM)?,
        None => "",
    };
    let reached = if database.is_empty() || resource.get("anyResource").is_some() || resource.get("cluster").is_some() {
        Resource::WholeServer
    } else {
        Resource::Database(names::database(database)?)
    };
    reader.reaches.add(reached, UserAdmin)
}
