//! Commands about the keys of all groups: each primary is asked, and the replies are merged.
//! Knows nothing of how a request is sent.

use super::{
    Operation, StepError, StepSlots,
    step::{Blocks, StepRequest, received},
};
use crate::{
    commands::{AllGroups, Spec},
    proxy::backend::Backend,
    resp::{
        number::{Header, header},
        write,
    },
};

/// Runs a command over all groups.
pub(in crate::proxy) async fn run(operation: Operation, kind: AllGroups, spec: &'static Spec) {
    match kind {
        AllGroups::Dbsize => dbsize(operation, spec).await,
    }
}

async fn dbsize(operation: Operation, spec: &'static Spec) {
    let mut request = Vec::new();
    write::request(&mut request, &[b"DBSIZE"]);
    match ask_all(&operation, &request, spec.is_write()).await {
        Err(text) => operation.refuse(&text),
        Ok(replies) => {
            let mut sum = 0_i64;
            for reply in replies {
                match (reply.first(), header(&reply, 1)) {
                    (Some(b':'), Header::Number(count, _)) => sum = sum.saturating_add(count),
                    _ => return operation.finish(&reply),
                }
            }
            let mut reply = Vec::new();
            write::int(&mut reply, sum);
            operation.finish(&reply);
        }
    }
}

/// Sends a request to the primary of every group, as the control user in the session's database, and returns the replies
/// in the order of the groups.
///
/// # Errors
/// Returns the error for the client if a group did not answer.
async fn ask_all(operation: &Operation, request: &[u8], is_write: bool) -> Result<Vec<Vec<u8>>, String> {
    let mut pending = Vec::new();
    let groups = operation.routes().groups.len();
    for group in 0..groups {
        let result = loop {
            operation.may_serve()?;
            let backend = control_backend(operation, group)?;
            let step = StepRequest { bytes: request, slots: StepSlots::All, is_write, blocks: Blocks::No };
            match operation.send(&backend, step) {
                Err(StepError::Full) => operation.wait_for_room().await,
                Err(error) => return Err(error.text().to_owned()),
                Ok(result) => break result,
            }
        };
        pending.push(result);
    }
    let mut replies = Vec::with_capacity(pending.len());
    for result in pending {
        replies.push(received(result).await.map_err(|error| error.text().to_owned())?);
    }
    Ok(replies)
}

/// The connection to the primary of a group as the control user.
fn control_backend(operation: &Operation, group: usize) -> Result<std::rc::Rc<Backend>, String> {
    let (db, version) = {
        let client = operation.session.client.borrow();
        (client.db, client.version)
    };
    let product = &operation.session.product;
    let none = || "TRYAGAIN not executed: the groups of the product change".to_owned();
    let group = u16::try_from(group).ok().filter(|group| usize::from(*group) < product.routes.borrow().groups.len());
    product.control_set(db, version).backend(&operation.worker, product, group.ok_or_else(none)?).ok_or_else(none)
}
