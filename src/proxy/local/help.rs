//! The HELP of containers that the node answers itself: the texts of Redis, for what a node does of them.
//! Knows nothing of how the commands are carried out.

use super::server_command::listed;
use crate::{commands::Local, resp::write};

const ACL: &str = "\
CAT [<category>]
    List all commands that belong to <category>, or all command categories
    when no category is specified.
DRYRUN <username> <command> [<arg> ...]
    Returns whether the user can execute the given command without executing the command.
GENPASS [<bits>]
    Generate a secure 256-bit user password. The optional `bits` argument can
    be used to specify a different size.
GETUSER <username>
    Get the user's details.
LIST
    Show users details in config file format.
LOG [<count> | RESET]
    Show the ACL log entries.
USERS
    List all the registered usernames.
WHOAMI
    Return the current connection username.";

const CLIENT: &str = "\
GETREDIR
    Return the client ID we are redirecting to when tracking is enabled.
GETNAME
    Return the name of the current connection.
ID
    Return the ID of the current connection.
INFO
    Return information about the current client connection.
KILL <ip:port>
    Kill connection made from <ip:port>.
KILL <option> <value> [<option> <value> [...]]
    Kill connections. Options are:
    * ADDR (<ip:port>|<unixsocket>:0)
      Kill connections made from the specified address
    * LADDR (<ip:port>|<unixsocket>:0)
      Kill connections made to specified local address
    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)
      Kill connections by type.
    * USER <username>
      Kill connections authenticated by <username>.
    * SKIPME (YES|NO)
      Skip killing current connection (default: yes).
    * ID <client-id> [<client-id> ...]
      Kill connections by client ids.
    * MAXAGE <maxage>
      Kill connections older than the specified age.
LIST [options ...]
    Return information about client connections. Options:
    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)
      Return clients of specified type.
    * ID <client-id> [<client-id> ...]
      Return clients of specified IDs only.
UNPAUSE
    Stop the current client pause, resuming traffic.
PAUSE <timeout> [WRITE|ALL]
    Suspend all, or just write, clients for <timeout> milliseconds.
REPLY (ON|OFF|SKIP)
    Control the replies sent to the current connection.
SETNAME <name>
    Assign the name <name> to the current connection.
SETINFO <option> <value>
    Set client meta attr. Options are:
    * LIB-NAME: the client lib name.
    * LIB-VER: the client lib version.
UNBLOCK <clientid> [TIMEOUT|ERROR]
    Unblock the specified blocked client.
TRACKINGINFO
    Report tracking status for the current connection.
NO-EVICT (ON|OFF)
    Protect current client connection from eviction.
NO-TOUCH (ON|OFF)
    Will not touch LRU/LFU stats when this mode is on.";

const COMMAND: &str = "\
(no subcommand)
    Return details about all Redis commands.
COUNT
    Return the total number of commands in this Redis server.
LIST
    Return a list of all commands in this Redis server.
INFO [<command-name> ...]
    Return details about multiple Redis commands.
    If no command names are given, documentation details for all
    commands are returned.
DOCS [<command-name> ...]
    Return documentation details about multiple Redis commands.
    If no command names are given, documentation details for all
    commands are returned.
GETKEYS <full-command>
    Return the keys from a full Redis command.
GETKEYSANDFLAGS <full-command>
    Return the keys and the access flags from a full Redis command.";

const CONFIG: &str = "\
GET <pattern>
    Return parameters matching the glob-like <pattern> and their values.
SET <directive> <value>
    Set the configuration <directive> to <value>. The proxy changes
    slowlog-log-slower-than, slowlog-max-len and timeout, at this node until
    it is started again. Of others, it accepts the present value.
RESETSTAT
    Reset statistics of this product at this node reported by the INFO command.";

const DEBUG: &str = "\
DIGEST
    The digests of the data of all groups, combined.
DIGEST-VALUE <key> [<key> ...]
    Digests of the values of the keys.
ERROR <string>
    Return an error with <string> as message.
HTSTATS-KEY <key>, LISTPACK <key>, OBJECT <key>, QUICKLIST <key> [<0|1>], SDSLEN <key>
    Asked of the owner of the key.
LOADAOF
    All primaries load their append-only files.
LOG <message>
    All primaries write <message> to their logs.
PROTOCOL <type>
    Reply with a test value of the specified type.
QUICKLIST-PACKED-THRESHOLD <size>, SET-ACTIVE-EXPIRE <0|1>, SET-DISABLE-DENY-SCRIPTS <0|1>,
SET-SKIP-CHECKSUM-VALIDATION <0|1>
    Set at all primaries.
RELOAD [MERGE|NOFLUSH MERGE]
    All primaries save their data and load them.
SLEEP <seconds>
    Delay this client for <seconds>. Decimals allowed.
STRUCTSIZE
    Asked of one primary.
PFDEBUG is allowed, too: of the owner of the key.
The operator allows it by: pontoon product set NAME debug-commands=on";

const LATENCY: &str = "\
DOCTOR
    Return a human readable latency analysis report.
HISTORY <event>
    Return time-latency samples for the <event> class.
GRAPH <event>
    Return an ASCII latency graph for the <event> class.
HISTOGRAM [COMMAND ...]
    Return a cumulative distribution of latencies in the format of a histogram for the specified
    command names. If no commands are specified then all histograms are replied.
LATEST
    Return the latest latency samples for all events.
RESET [<event> ...]
    Reset latency data of one or more <event> classes.
    (default: reset all data for all event classes)";

const MODULE: &str = "\
LIST
    Return a list of the modules that all servers of the product have.";

const PONTOON: &str = "\
ON <group|server> <command> [<arg> ...]
    Send a command that only reads to the primary of a group, or to a server by its address.
    The operator allows it by: pontoon product set NAME server-commands=on";

const SLOWLOG: &str = "\
GET [<count>]
    Return top <count> entries from the slowlog (default: 10, -1 mean all).
    Entries are made of:
    id, timestamp, time in microseconds, arguments array, client IP and port,
    client name
LEN
    Return the length of the slowlog.
RESET
    Reset the slowlog.";

/// Writes the reply to the HELP of a container.
pub(super) fn help(command: Local, out: &mut Vec<u8>) {
    let commands_of_servers = format!("    The commands are: {}.", listed());
    let (name, text, more) = match command {
        Local::AclHelp => ("ACL", ACL, None),
        Local::ClientHelp => ("CLIENT", CLIENT, None),
        Local::CommandHelp => ("COMMAND", COMMAND, None),
        Local::ConfigHelp => ("CONFIG", CONFIG, None),
        Local::Debug => ("DEBUG", DEBUG, None),
        Local::LatencyHelp => ("LATENCY", LATENCY, None),
        Local::PontoonHelp => ("PONTOON", PONTOON, Some(commands_of_servers.as_str())),
        Local::SlowlogHelp => ("SLOWLOG", SLOWLOG, None),
        _ => ("MODULE", MODULE, None),
    };
    let head = format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:");
    let end = ["HELP", "    Print this help."];
    let lines: Vec<&str> = [head.as_str()].into_iter().chain(text.lines()).chain(more).chain(end).collect();
    write::array(out, lines.len());
    lines.iter().for_each(|line| write::simple(out, line));
}

/// Writes the reply to DEBUG HELP.
pub(in crate::proxy) fn debug(out: &mut Vec<u8>) {
    help(Local::Debug, out);
}
