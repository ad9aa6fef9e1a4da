//! Changes of script catalogues.

use super::Encode;
use crate::{
    model::{
        change::{DeleteLibraries, FlushScripts, LoadLibrary, LoadScript},
        ids::ProductId,
    },
    wire::{convert::DecodeError, pb::state as pb},
};

impl Encode for LoadScript {
    type Message = pb::LoadScript;

    fn to_message(&self) -> pb::LoadScript {
        pb::LoadScript { product: self.product.0, body: self.body.clone() }
    }

    fn from_message(message: pb::LoadScript) -> Result<Self, DecodeError> {
        Ok(Self { product: ProductId(message.product), body: message.body })
    }
}

impl Encode for FlushScripts {
    type Message = pb::FlushScripts;

    fn to_message(&self) -> pb::FlushScripts {
        pb::FlushScripts { product: self.product.0 }
    }

    fn from_message(message: pb::FlushScripts) -> Result<Self, DecodeError> {
        Ok(Self { product: ProductId(message.product) })
    }
}

impl Encode for LoadLibrary {
    type Message = pb::LoadLibrary;

    fn to_message(&self) -> pb::LoadLibrary {
        pb::LoadLibrary { product: self.product.0, name: self.name.clone(), code: self.code.clone() }
    }

    fn from_message(message: pb::LoadLibrary) -> Result<Self, DecodeError> {
        Ok(Self { product: ProductId(message.product), name: message.name, code: message.code })
    }
}

impl Encode for DeleteLibraries {
    type Message = pb::DeleteLibraries;

    fn to_message(&self) -> pb::DeleteLibraries {
        pb::DeleteLibraries { product: self.product.0, names: self.names.iter().cloned().collect() }
    }

    fn from_message(message: pb::DeleteLibraries) -> Result<Self, DecodeError> {
        Ok(Self { product: ProductId(message.product), names: message.names.into_iter().collect() })
    }
}
