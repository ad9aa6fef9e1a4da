//! What clients log in with, to messages and back: parts of entries and of the state.

use super::{
    convert::{DecodeError, bad, credentials_from, credentials_to, need},
    pb::state as pb,
};
use crate::model::{
    auth::{FormerCredentials, ProductAuth},
    change::SetAuth,
    ids::Epoch,
    secret::Credentials,
};

pub(super) fn set_auth_to(auth: &SetAuth) -> pb::SetAuth {
    let (kind, credentials) = match auth {
        SetAuth::Replace(credentials) => (pb::SetAuthKind::Replace, credentials.as_ref()),
        SetAuth::Add(credentials) => (pb::SetAuthKind::Add, Some(credentials)),
        SetAuth::RemoveFormer => (pb::SetAuthKind::RemoveFormer, None),
    };
    pb::SetAuth { kind: kind.into(), credentials: credentials.map(credentials_to) }
}

pub(super) fn set_auth_from(message: pb::SetAuth) -> Result<SetAuth, DecodeError> {
    let kind = pb::SetAuthKind::try_from(message.kind).or_else(|_| bad("a change of credentials", message.kind))?;
    let credentials = message.credentials.map(credentials_from);
    Ok(match kind {
        pb::SetAuthKind::Replace => SetAuth::Replace(credentials),
        pb::SetAuthKind::Add => SetAuth::Add(need(credentials, "the credentials of clients")?),
        pb::SetAuthKind::RemoveFormer => SetAuth::RemoveFormer,
    })
}

pub(super) fn former_to(auth: &ProductAuth) -> Option<pb::FormerCredentials> {
    let former = auth.former.as_ref()?;
    Some(pb::FormerCredentials { credentials: Some(credentials_to(&former.credentials)), version: former.version.0 })
}

/// `credentials` are the newest, which are among the settings of the product.
pub(super) fn auth_from(
    credentials: Option<Credentials>,
    version: u64,
    former: Option<pb::FormerCredentials>,
) -> Result<ProductAuth, DecodeError> {
    let former = former.map(|former| {
        let credentials = credentials_from(need(former.credentials, "the former credentials of clients")?);
        Ok(FormerCredentials { credentials, version: Epoch(former.version) })
    });
    Ok(ProductAuth { credentials, version: Epoch(version), former: former.transpose()? })
}
