//! Who makes a request, and from where. The node that receives it notes both, and passes them on when it forwards the
//! request. Only what a member has forwarded is believed (`forward::ForwardedAuth`): else any client could name another.
//! Knows nothing of what is requested.

use prost::Message;
use tonic::{
    Request,
    metadata::{Binary, MetadataValue},
};

use super::{Api, forward};
use crate::{
    model::{
        author::Requester,
        ids::NodeId,
        limits::{ACTOR_LEN_MAX, ADDRESS_LEN_MAX},
        printable::printable,
    },
    wire::{caller::Caller, connection::peer_address, pb::node::Origin},
};

/// Name of the metadata of a forwarded request: an [`Origin`], encoded.
const NAME: &str = "x-pontoon-origin-bin";
/// Longest origin that is decoded, bytes: both of its texts.
const LEN_MAX: usize = 2 * (ACTOR_LEN_MAX + ADDRESS_LEN_MAX);

impl Api {
    /// Who makes a request, without what the client says of itself.
    pub(super) fn requester<T>(&self, request: &Request<T>) -> Requester {
        let received_here = Requester {
            actor: self.leaders.actor().to_owned(),
            declared: String::new(),
            address: peer_address(request),
            node: self.control.me,
        };
        if !forward::was_forwarded(request) {
            return received_here;
        }
        // The address of the connection is that of the member.
        let origin = origin(request).unwrap_or_default();
        let caller = Caller::of(request.metadata());
        Requester {
            actor: if origin.actor.is_empty() { received_here.actor } else { origin.actor },
            address: origin.address,
            node: caller.map_or(received_here.node, |caller| NodeId(caller.id)),
            ..received_here
        }
    }
}

/// What the member says that has forwarded a request; `None`: nothing, or nothing that can be read.
fn origin<T>(request: &Request<T>) -> Option<Origin> {
    let bytes = request.metadata().get_bin(NAME)?.to_bytes().ok()?;
    let origin = Origin::decode(bytes.get(..).filter(|bytes| bytes.len() <= LEN_MAX)?).ok()?;
    Some(Origin {
        actor: printable(&origin.actor, ACTOR_LEN_MAX),
        address: printable(&origin.address, ADDRESS_LEN_MAX),
    })
}

/// Adds to a request that is forwarded who has made it.
pub(super) fn pass_on<T>(request: &mut Request<T>, by: &Requester) {
    let origin = Origin { actor: by.actor.clone(), address: by.address.clone() };
    request.metadata_mut().insert_bin(NAME, MetadataValue::<Binary>::from_bytes(&origin.encode_to_vec()));
}

/// What a client says of itself, as it is kept.
pub(super) fn declared(text: &str) -> String {
    printable(text, ACTOR_LEN_MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn carried(by: &Requester) -> Option<Origin> {
        let mut request = Request::new(());
        pass_on(&mut request, by);
        origin(&request)
    }

    #[test]
    fn an_origin_arrives_as_it_was_sent_and_is_printable() {
        let by = Requester { actor: "cluster secret".into(), address: "[::1]:5".into(), ..Requester::default() };
        let read = carried(&by).unwrap();
        assert_eq!((read.actor.as_str(), read.address.as_str()), ("cluster secret", "[::1]:5"));
        let read = carried(&Requester { actor: "a\x1b[2J".into(), ..by.clone() }).unwrap();
        assert_eq!(read.actor, "a\\u{1b}[2J");
        assert_eq!(carried(&Requester { actor: "x".repeat(LEN_MAX), ..by }), None);
        assert_eq!(origin(&Request::new(())), None);
    }
}
