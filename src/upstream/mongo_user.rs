//! The user of an authenticated connection.

/// The user that mongod derives from a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MongoUser {
    /// Its name in `$external`, escaped for logs.
    pub name: String,
    /// The first few of its roles, as `read@shop`.
    pub roles: Vec<String>,
}
