//! The HELP of containers that the node answers itself, in the form of Redis: only what a node does.
//! Knows nothing of how the commands are carried out.

use super::server_command::listed;
use crate::{commands::Local, resp::write};

const COMMAND: &[(&str, &[&str])] = &[
    ("(no subcommand)", &["Return details about all Redis commands."]),
    ("COUNT", &["Return the total number of commands in this Redis server."]),
    ("LIST", &["Return a list of all commands in this Redis server."]),
    (
        "INFO [<command-name> ...]",
        &[
            "Return details about multiple Redis commands.",
            "If no command names are given, documentation details for all",
            "commands are returned.",
        ],
    ),
    (
        "DOCS [<command-name> ...]",
        &[
            "Return documentation details about multiple Redis commands.",
            "If no command names are given, documentation details for all",
            "commands are returned.",
        ],
    ),
    ("GETKEYS <full-command>", &["Return the keys from a full Redis command."]),
    ("GETKEYSANDFLAGS <full-command>", &["Return the keys and the access flags from a full Redis command."]),
];

const CONFIG: &[(&str, &[&str])] = &[
    ("GET <pattern>", &["Return parameters matching the glob-like <pattern> and their values."]),
    (
        "SET <directive> <value>",
        &["Set the configuration <directive> to <value>. The proxy accepts the", "present value, and changes nothing."],
    ),
    ("RESETSTAT", &["Reset statistics of this product at this node reported by the INFO command."]),
];

const ACL: &[(&str, &[&str])] = &[
    (
        "CAT [<category>]",
        &["List all commands that belong to <category>, or all command categories", "when no category is specified."],
    ),
    ("GETUSER <username>", &["Get the user's details."]),
    ("LIST", &["Show users details in config file format."]),
    ("USERS", &["List all the registered usernames."]),
    ("WHOAMI", &["Return the current connection username."]),
];

const LATENCY: &[(&str, &[&str])] = &[
    ("DOCTOR", &["Return a human readable latency analysis report."]),
    ("HISTORY <event>", &["Return time-latency samples for the <event> class."]),
    ("LATEST", &["Return the latest latency samples for all events."]),
    (
        "RESET [<event> ...]",
        &["Reset latency data of one or more <event> classes.", "(default: reset all data for all event classes)"],
    ),
];

const MODULE: &[(&str, &[&str])] = &[("LIST", &["Return a list of the modules that all servers of the product have."])];

const PONTOON: &[(&str, &[&str])] = &[(
    "ON <group|server> <command> [<arg> ...]",
    &[
        "Send a command that only reads to the primary of a group, or to a server by its address.",
        "The operator allows it by: pontoon product set NAME server-commands=on",
    ],
)];

/// Writes the reply to the HELP of a container.
pub(super) fn help(command: Local, out: &mut Vec<u8>) {
    let (name, subcommands) = match command {
        Local::CommandHelp => ("COMMAND", COMMAND),
        Local::ConfigHelp => ("CONFIG", CONFIG),
        Local::AclHelp => ("ACL", ACL),
        Local::LatencyHelp => ("LATENCY", LATENCY),
        Local::PontoonHelp => ("PONTOON", PONTOON),
        _ => ("MODULE", MODULE),
    };
    let mut lines = vec![format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:")];
    for (call, texts) in subcommands.iter().chain([("HELP", &["Print this help."][..])].iter()) {
        lines.push((*call).to_owned());
        lines.extend(texts.iter().map(|text| format!("    {text}")));
        if command == Local::PontoonHelp && *call != "HELP" {
            lines.push(format!("    The commands are: {}.", listed()));
        }
    }
    write::array(out, lines.len());
    lines.iter().for_each(|line| write::simple(out, line));
}
