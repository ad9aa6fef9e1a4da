//! Changes of groups and servers to messages and back.

use super::Encode;
use crate::model::{
    change::{
        AddServer, CreateGroup, ForgetFormer, RemoveGroup, RemoveServer, SetControlUser, SetDataUser, SetGroup,
        SetImpaired, SetServer,
    },
    ids::{Epoch, GroupId, ProductId},
};
use crate::wire::{
    convert::{
        DecodeError, addr_from, credentials_from, credentials_to, data_user_from, data_user_to, need, server_from,
        server_to,
    },
    pb::state as pb,
};

impl Encode for CreateGroup {
    type Message = pb::CreateGroup;

    fn to_message(&self) -> pb::CreateGroup {
        pb::CreateGroup {
            product: self.product.0,
            group: self.group.0,
            servers: self.servers.iter().map(server_to).collect(),
            credentials: self.credentials.as_ref().map(credentials_to),
            data_user: self.data_user.as_ref().map(data_user_to),
        }
    }

    fn from_message(message: pb::CreateGroup) -> Result<Self, DecodeError> {
        Ok(Self {
            product: ProductId(message.product),
            group: GroupId(message.group),
            servers: message.servers.into_iter().map(server_from).collect::<Result<_, _>>()?,
            credentials: message.credentials.map(credentials_from),
            data_user: message.data_user.map(data_user_from).transpose()?,
        })
    }
}

impl Encode for AddServer {
    type Message = pb::AddServer;

    fn to_message(&self) -> pb::AddServer {
        pb::AddServer { product: self.product.0, group: self.group.0, server: Some(server_to(&self.server)) }
    }

    fn from_message(message: pb::AddServer) -> Result<Self, DecodeError> {
        Ok(Self {
            product: ProductId(message.product),
            group: GroupId(message.group),
            server: server_from(need(message.server, "a server")?)?,
        })
    }
}

impl Encode for RemoveServer {
    type Message = pb::RemoveServer;

    fn to_message(&self) -> pb::RemoveServer {
        pb::RemoveServer { product: self.product.0, group: self.group.0, addr: self.addr.to_string() }
    }

    fn from_message(message: pb::RemoveServer) -> Result<Self, DecodeError> {
        Ok(Self { product: ProductId(message.product), group: GroupId(message.group), addr: addr_from(&message.addr)? })
    }
}

impl Encode for RemoveGroup {
    type Message = pb::RemoveGroup;

    fn to_message(&self) -> pb::RemoveGroup {
        pb::RemoveGroup { product: self.product.0, group: self.group.0, keys_left: self.keys_left }
    }

    fn from_message(message: pb::RemoveGroup) -> Result<Self, DecodeError> {
        let pb::RemoveGroup { product, group, keys_left } = message;
        Ok(Self { product: ProductId(product), group: GroupId(group), keys_left })
    }
}

impl Encode for SetGroup {
    type Message = pb::SetGroup;

    fn to_message(&self) -> pb::SetGroup {
        pb::SetGroup {
            product: self.product.0,
            group: self.group.0,
            down_after_ms: self.down_after_ms,
            maintenance: self.maintenance,
            eject_after_ms: self.eject_after_ms,
            impaired: set_impaired_to(self.impaired),
        }
    }

    fn from_message(message: pb::SetGroup) -> Result<Self, DecodeError> {
        Ok(Self {
            product: ProductId(message.product),
            group: GroupId(message.group),
            down_after_ms: message.down_after_ms,
            maintenance: message.maintenance,
            eject_after_ms: message.eject_after_ms,
            impaired: set_impaired_from(message.impaired.unwrap_or_default()),
        })
    }
}

/// Absent if nothing changes.
fn set_impaired_to(set: SetImpaired) -> Option<pb::SetImpaired> {
    (set != SetImpaired::default()).then_some(pb::SetImpaired {
        busy_failover_after_ms: set.busy_failover_after_ms,
        loading_failover_after_ms: set.loading_failover_after_ms,
        misconf_failover_after_ms: set.misconf_failover_after_ms,
        script_kill_after_ms: set.script_kill_after_ms,
    })
}

const fn set_impaired_from(message: pb::SetImpaired) -> SetImpaired {
    SetImpaired {
        busy_failover_after_ms: message.busy_failover_after_ms,
        loading_failover_after_ms: message.loading_failover_after_ms,
        misconf_failover_after_ms: message.misconf_failover_after_ms,
        script_kill_after_ms: message.script_kill_after_ms,
    }
}

impl Encode for SetDataUser {
    type Message = pb::SetDataUser;

    fn to_message(&self) -> pb::SetDataUser {
        let data_user = Some(data_user_to(&self.data_user));
        pb::SetDataUser { product: self.product.0, group: self.group.0, data_user }
    }

    fn from_message(message: pb::SetDataUser) -> Result<Self, DecodeError> {
        Ok(Self {
            product: ProductId(message.product),
            group: GroupId(message.group),
            data_user: data_user_from(need(message.data_user, "a data user")?)?,
        })
    }
}

impl Encode for SetControlUser {
    type Message = pb::SetControlUser;

    fn to_message(&self) -> pb::SetControlUser {
        let credentials = Some(credentials_to(&self.credentials));
        pb::SetControlUser { product: self.product.0, group: self.group.0, credentials }
    }

    fn from_message(message: pb::SetControlUser) -> Result<Self, DecodeError> {
        Ok(Self {
            product: ProductId(message.product),
            group: GroupId(message.group),
            credentials: credentials_from(need(message.credentials, "credentials")?),
        })
    }
}

impl Encode for ForgetFormer {
    type Message = pb::ForgetFormer;

    fn to_message(&self) -> pb::ForgetFormer {
        pb::ForgetFormer { product: self.product.0, group: self.group.0, replaced_at: self.replaced_at.0 }
    }

    fn from_message(message: pb::ForgetFormer) -> Result<Self, DecodeError> {
        Ok(Self {
            product: ProductId(message.product),
            group: GroupId(message.group),
            replaced_at: Epoch(message.replaced_at),
        })
    }
}

impl Encode for SetServer {
    type Message = pb::SetServer;

    fn to_message(&self) -> pb::SetServer {
        pb::SetServer {
            product: self.product.0,
            group: self.group.0,
            addr: self.addr.to_string(),
            priority: self.priority,
            zone: self.zone.clone(),
        }
    }

    fn from_message(message: pb::SetServer) -> Result<Self, DecodeError> {
        Ok(Self {
            product: ProductId(message.product),
            group: GroupId(message.group),
            addr: addr_from(&message.addr)?,
            priority: message.priority,
            zone: message.zone,
        })
    }
}
