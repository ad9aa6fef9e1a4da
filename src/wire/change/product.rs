//! Changes of products to messages and back.

use super::Encode;
use crate::model::{
    change::{NewProduct, RemoveProduct, SetProduct},
    client_rules::SetClientRules,
    ids::ProductId,
    redis_version::ToldVersion,
};
use crate::wire::{
    client_auth::{set_auth_from, set_auth_to},
    convert::{DecodeError, min_acks_from, need, product_from, product_to, told_version_from, u16_from},
    pb::state as pb,
    reads::{set_reads_from, set_reads_to},
};

impl Encode for NewProduct {
    type Message = pb::NewProduct;

    fn to_message(&self) -> pb::NewProduct {
        product_to(self)
    }

    fn from_message(message: pb::NewProduct) -> Result<Self, DecodeError> {
        product_from(message)
    }
}

impl Encode for SetProduct {
    type Message = pb::SetProduct;

    fn to_message(&self) -> pb::SetProduct {
        pb::SetProduct {
            product: self.product.0,
            port: self.port.map(u32::from),
            databases: self.databases,
            auth: self.auth.as_ref().map(set_auth_to),
            auto_rebalance: self.auto_rebalance,
            min_acks: self.min_acks.map(u32::from),
            min_acks_ms: self.min_acks_ms,
            reads: Some(set_reads_to(self.reads)),
            clients_max: self.clients_max,
            ops_max: self.rules.ops_max,
            bytes_max: self.rules.bytes_max,
            scripts_off: self.rules.scripts_off,
            script_loads_max: self.rules.script_loads_max,
            errors_detailed: self.rules.errors_detailed,
            blocked_errors: self.rules.blocked_errors,
            server_commands: self.rules.server_commands,
            debug_commands: self.rules.debug_commands,
            redis_version: self.rules.redis_version.map(ToldVersion::number),
            idle_ms: self.rules.idle_ms,
        }
    }

    fn from_message(message: pb::SetProduct) -> Result<Self, DecodeError> {
        Ok(Self {
            product: ProductId(message.product),
            port: message.port.map(|n| u16_from(n, "a port")).transpose()?,
            databases: message.databases,
            auth: message.auth.map(set_auth_from).transpose()?,
            auto_rebalance: message.auto_rebalance,
            min_acks: message.min_acks.map(min_acks_from).transpose()?,
            min_acks_ms: message.min_acks_ms,
            reads: set_reads_from(need(message.reads, "where reads go")?)?,
            clients_max: message.clients_max,
            rules: SetClientRules {
                ops_max: message.ops_max,
                bytes_max: message.bytes_max,
                scripts_off: message.scripts_off,
                script_loads_max: message.script_loads_max,
                errors_detailed: message.errors_detailed,
                blocked_errors: message.blocked_errors,
                server_commands: message.server_commands,
                debug_commands: message.debug_commands,
                redis_version: message.redis_version.map(told_version_from).transpose()?,
                idle_ms: message.idle_ms,
            },
        })
    }
}

impl Encode for RemoveProduct {
    type Message = pb::RemoveProduct;

    fn to_message(&self) -> pb::RemoveProduct {
        pb::RemoveProduct { product: self.product.0 }
    }

    fn from_message(message: pb::RemoveProduct) -> Result<Self, DecodeError> {
        Ok(Self { product: ProductId(message.product) })
    }
}
