//! Commands about the connection itself, and publish and subscribe.
//! Rows only; `spec` and `keys` interpret them.

use super::super::spec::flag::{ADMIN, ALLOW_BUSY, FAST, LOADING, MAY_REPLICATE, NO_AUTH, NOSCRIPT, PUBSUB, STALE};
use super::super::spec::{Handling, Local, NodeCommand, Spec, cmd, container};
use super::{KEY, KEYS, NONE, why};

pub(super) static CONNECTION: &[Spec] = &[
    cmd("auth", -2, NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY, NONE, Handling::Local(Local::Auth)),
    container(
        "client",
        -2,
        0,
        Handling::Container,
        &[
            cmd("client|caching", 3, NOSCRIPT | LOADING | STALE, NONE, Handling::Unsupported(why::TRACKING)),
            cmd("client|getname", 2, NOSCRIPT | LOADING | STALE, NONE, Handling::Local(Local::ClientGetname)),
            cmd("client|getredir", 2, NOSCRIPT | LOADING | STALE, NONE, Handling::Local(Local::ClientGetredir)),
            cmd("client|help", 2, LOADING | STALE, NONE, Handling::Local(Local::ClientHelp)),
            cmd("client|id", 2, NOSCRIPT | LOADING | STALE, NONE, Handling::Local(Local::ClientId)),
            cmd("client|info", 2, NOSCRIPT | LOADING | STALE, NONE, Handling::Local(Local::ClientInfo)),
            cmd("client|kill", -3, ADMIN | NOSCRIPT | LOADING | STALE, NONE, Handling::Node(NodeCommand::ClientKill)),
            cmd("client|list", -2, ADMIN | NOSCRIPT | LOADING | STALE, NONE, Handling::Node(NodeCommand::ClientList)),
            cmd("client|no-evict", 3, ADMIN | NOSCRIPT | LOADING | STALE, NONE, Handling::Local(Local::ClientNoEvict)),
            cmd("client|pause", -3, ADMIN | NOSCRIPT | LOADING | STALE, NONE, Handling::Node(NodeCommand::ClientPause)),
            cmd("client|reply", 3, NOSCRIPT | LOADING | STALE, NONE, Handling::Local(Local::ClientReply)),
            cmd("client|setname", 3, NOSCRIPT | LOADING | STALE, NONE, Handling::Local(Local::ClientSetname)),
            cmd("client|tracking", -3, NOSCRIPT | LOADING | STALE, NONE, Handling::Unsupported(why::TRACKING)),
            cmd("client|trackinginfo", 2, NOSCRIPT | LOADING | STALE, NONE, Handling::Local(Local::ClientTrackinginfo)),
            cmd(
                "client|unblock",
                -3,
                ADMIN | NOSCRIPT | LOADING | STALE,
                NONE,
                Handling::Node(NodeCommand::ClientUnblock),
            ),
            cmd(
                "client|unpause",
                2,
                ADMIN | NOSCRIPT | LOADING | STALE,
                NONE,
                Handling::Node(NodeCommand::ClientUnpause),
            ),
            cmd("client|setinfo", 4, NOSCRIPT | LOADING | STALE, NONE, Handling::Local(Local::ClientSetinfo)),
            cmd("client|no-touch", 3, NOSCRIPT | LOADING | STALE, NONE, Handling::Local(Local::ClientNoTouch)),
            // Valkey 8.
            cmd("client|capa", -3, NOSCRIPT | LOADING | STALE, NONE, Handling::Refused(why::SERVER_SESSIONS)),
            cmd(
                "client|import-source",
                3,
                ADMIN | NOSCRIPT | LOADING | STALE,
                NONE,
                Handling::Refused(why::SERVER_SESSIONS),
            ),
        ],
    ),
    cmd("echo", 2, LOADING | STALE | FAST, NONE, Handling::Local(Local::Echo)),
    cmd("hello", -1, NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY, NONE, Handling::Local(Local::Hello)),
    cmd("ping", -1, FAST, NONE, Handling::Local(Local::Ping)),
    cmd("psubscribe", -2, PUBSUB | NOSCRIPT | LOADING | STALE, NONE, Handling::Unsupported(why::PUBSUB_LATER)),
    cmd("publish", 3, PUBSUB | LOADING | STALE | FAST | MAY_REPLICATE, NONE, Handling::Unsupported(why::PUBSUB_LATER)),
    container(
        "pubsub",
        -2,
        0,
        Handling::Container,
        &[
            cmd("pubsub|channels", -2, PUBSUB | LOADING | STALE, NONE, Handling::Unsupported(why::PUBSUB_LATER)),
            cmd("pubsub|help", 2, LOADING | STALE, NONE, Handling::AnyServer),
            cmd("pubsub|numpat", 2, PUBSUB | LOADING | STALE, NONE, Handling::Unsupported(why::PUBSUB_LATER)),
            cmd("pubsub|numsub", -2, PUBSUB | LOADING | STALE, NONE, Handling::Unsupported(why::PUBSUB_LATER)),
            cmd("pubsub|shardchannels", -2, PUBSUB | LOADING | STALE, NONE, Handling::Unsupported(why::PUBSUB_LATER)),
            cmd("pubsub|shardnumsub", -2, PUBSUB | LOADING | STALE, NONE, Handling::Unsupported(why::PUBSUB_LATER)),
        ],
    ),
    cmd("punsubscribe", -1, PUBSUB | NOSCRIPT | LOADING | STALE, NONE, Handling::Unsupported(why::PUBSUB_LATER)),
    cmd("quit", -1, NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY, NONE, Handling::Local(Local::Quit)),
    cmd("reset", 1, NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY, NONE, Handling::Local(Local::Reset)),
    cmd("select", 2, LOADING | STALE | FAST, NONE, Handling::Local(Local::Select)),
    cmd("spublish", 3, PUBSUB | LOADING | STALE | FAST | MAY_REPLICATE, KEY, Handling::Unsupported(why::PUBSUB_LATER)),
    cmd("ssubscribe", -2, PUBSUB | NOSCRIPT | LOADING | STALE, KEYS, Handling::Unsupported(why::PUBSUB_LATER)),
    cmd("subscribe", -2, PUBSUB | NOSCRIPT | LOADING | STALE, NONE, Handling::Unsupported(why::PUBSUB_LATER)),
    cmd("sunsubscribe", -1, PUBSUB | NOSCRIPT | LOADING | STALE, KEYS, Handling::Unsupported(why::PUBSUB_LATER)),
    cmd("unsubscribe", -1, PUBSUB | NOSCRIPT | LOADING | STALE, NONE, Handling::Unsupported(why::PUBSUB_LATER)),
];
