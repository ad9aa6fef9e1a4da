//! `Debug` of messages that contain a password, or what identifies a secret: it leaves these out.

use std::fmt;

use super::pb::{
    admin::{CreateGroupRequest, CreateProductRequest, SetGroupRequest, SetProductRequest},
    node::SecretTags,
};

macro_rules! redacted {
    ($($type:ident { $($field:ident)* })*) => {$(
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut out = f.debug_struct(stringify!($type));
                $(out.field(stringify!($field), &self.$field);)*
                out.finish_non_exhaustive()
            }
        }
    )*};
}

redacted! {
    CreateProductRequest { name port layout mode isolated databases username options accept_shared_risk }
    SetProductRequest {
        name port databases username auto_rebalance min_acks min_acks_timeout_ms read_from max_lag_ms read_your_writes clients_max
        ops_max bytes_max scripts_off script_loads_max errors_detailed blocked_errors server_commands debug_commands redis_version
        idle_timeout_ms keep_sessions
        remove_former_password force options
    }
    SetGroupRequest {
        product id down_after_ms maintenance eject_after_ms options impaired new_data_user data_username
        username accept_shared_risk
    }
    CreateGroupRequest { product id primary replicas username options data_username accept_shared_risk }
    SecretTags { }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_do_not_show_their_passwords() {
        let password = "hunter2".to_owned();
        let create = CreateProductRequest { password: password.clone(), name: "shop".into(), ..Default::default() };
        let set = SetProductRequest { password: Some(password.clone()), name: "shop".into(), ..Default::default() };
        let data_password = password.clone();
        let group = CreateGroupRequest { password, data_password, product: "shop".into(), ..Default::default() };
        for text in [format!("{create:?}"), format!("{set:?}"), format!("{group:?}")] {
            assert!(text.contains("shop") && !text.contains("hunter2"), "{text}");
        }
    }
}
