//! Asks for migrations.

use crate::{
    cli::{
        Remote,
        client::Client,
        error::{CliError, ErrorCode},
    },
    wire::pb::admin::{ListMigrationsReply, ListMigrationsRequest, Migration},
};

/// The migrations of the product, or those with these ids, of any product.
pub(super) async fn fetch(remote: &Remote, ids: Vec<u64>) -> Result<ListMigrationsReply, CliError> {
    let call = |mut c: Client| {
        let product = if ids.is_empty() { remote.product().to_owned() } else { String::new() };
        let request = ListMigrationsRequest { product, ids: ids.clone() };
        async move { c.list_migrations(request).await }
    };
    remote.read(call).await
}

/// The migration with this id, and why nothing is observed of it, if nothing is.
pub(super) async fn one(remote: &Remote, id: u64) -> Result<(Migration, Option<String>), CliError> {
    let reply = fetch(remote, vec![id]).await?;
    let missing = || {
        let why = format!("there is no migration {id}, or it ended long ago; `pontoon migrate ls` shows them");
        CliError::Refused(ErrorCode::NotFound, why)
    };
    let found = reply.migrations.into_iter().find(|m| m.id == id).ok_or_else(missing)?;
    Ok((found, reply.not_observed_because))
}
