//! Sequences of calls that belong together, written as templates. Knows nothing of which of them are sent when.

use super::{
    connection::Call,
    vocabulary::{TAGS, Vocabulary},
};

/// Sequences, their calls separated by ` | `. `%` and a letter is a key of this type, the same in the whole sequence; a
/// capital letter is another one. `%@` is the tag of the keys, `%m` a member, `%i` an integer, `%e` the id of a new stream
/// entry, `%o` an odd word, and `%_` an empty one.
pub const SEQUENCES: &[&str] = &[
    // They fill the keyspace.
    "DEL %s | SET %s %m",
    "DEL %n | SET %n 10 | EXPIRE %n 777770000",
    "DEL %l | RPUSH %l %m %m %m 1 2",
    "DEL %h | HSET %h m1 %m m2 2 %m %m",
    "DEL %t | SADD %t %m %m m1 m2 3",
    "DEL %t %T | SADD %t 1 2 3 | SADD %T 2 3 4 | SINTERSTORE %w %t %T | SMEMBERS %w",
    "DEL %z | ZADD %z 1 m1 2 m2 3.5 %m 2 %m",
    "DEL %z | ZADD %z 0 m1 0 m2 0 m3 0 %m | ZRANGEBYLEX %z - +",
    "DEL %x | XADD %x %e m1 %m | XADD %x %e m2 %m | XGROUP CREATE %x g1 0",
    "DEL %x | XGROUP CREATE %x g1 $ MKSTREAM | XADD %x %e m1 1 | XADD %x %e m1 2 | XREADGROUP GROUP g1 c1 COUNT 1 STREAMS %x > | \
        XPENDING %x g1 - + 10 | XINFO STREAM %x FULL | XINFO GROUPS %x | XINFO CONSUMERS %x g1",
    "DEL %g | GEOADD %g 13.361389 38.115556 m1 15.087269 37.502669 m2 | GEOSEARCH %g FROMMEMBER m1 BYRADIUS 200 km ASC",
    "DEL %b | SETBIT %b 7 1 | SETBIT %b 100 1 | BITFIELD %b GET u8 0 SET i8 #1 -3 OVERFLOW SAT INCRBY u2 100 3",
    "DEL %p | PFADD %p %m %m m1 m2 | PFCOUNT %p",
    "DEL %w | SET %w %m",
    "DEL %w | LPUSH %w %m",
    "DEL %w | HSET %w m1 %m",
    "DEL %w | SADD %w m1 %m",
    // Random choices of which the result is known.
    "DEL %t | SADD %t one | SPOP %t | EXISTS %t",
    "DEL %t | SADD %t 1 2 3 | SPOP %t 1000",
    "DEL %x | XADD %x * m1 1 | XLEN %x | DEL %x",
    // Whole lists in any order by other keys.
    "DEL %l %z | RPUSH %l 3 1 2 | SORT %l BY nosort | SORT %l BY %@s* GET # GET %@s* LIMIT 0 2 DESC | SORT %l BY %@h*->m1 STORE %z",
    "DEL %l | RPUSH %l b a c | SORT %l | SORT %l ALPHA | SORT_RO %l ALPHA DESC GET %@n* GET #",
    // Values that do not fit.
    "SET %s abc | INCR %s | LPUSH %s a | SADD %s a | ZADD %s 1 a | HSET %s a b | XADD %s 1-1 a b | GETBIT %s 1 | PFADD %s a",
    "DEL %l | RPUSH %l a | GET %l | INCR %l | APPEND %l x | SUNION %l | ZUNION 1 %l | HGETALL %l | XLEN %l | MGET %l %l",
    "DEL %s | SET %s %m NX GET | SET %s %m XX GET KEEPTTL | SET %s 1 NX XX | SET %s 1 EX 0 | SET %s 1 EX abc",
    "DEL %n | SET %n 9223372036854775807 | INCR %n | DECRBY %n -1 | INCRBYFLOAT %n 1.5 | SET %n nan | INCRBYFLOAT %n inf",
    // The connection.
    "CLIENT REPLY OFF | SET %s 1 | GET %s | LPUSH %s 1 | CLIENT REPLY ON | GET %s",
    "CLIENT REPLY SKIP | SET %s %m | GET %s",
    "CLIENT REPLY OFF | CLIENT REPLY SKIP | PING | CLIENT REPLY ON | PING",
    "CLIENT REPLY SKIP | CLIENT REPLY ON | PING",
    "CLIENT REPLY SKIP | CLIENT REPLY SKIP | PING | PING",
    "CLIENT REPLY OFF | NOSUCH | HELLO 3 | RESET | PING",
    "CLIENT REPLY | CLIENT REPLY nosuch | CLIENT REPLY ON",
    "HELLO 3 | HGETALL %h | ZSCORE %z m1 | SMEMBERS %t | ZRANGE %z 0 -1 WITHSCORES | INFO | CLIENT ID | CONFIG GET maxmemory | \
        GET %w | CLIENT TRACKINGINFO | COMMAND INFO get",
    "HELLO 2 | HGETALL %h | ZSCORE %z m1 | SMEMBERS %t | GET %w | CLIENT TRACKINGINFO | HELLO",
    "HELLO 1 | HELLO 4 | HELLO abc | HELLO %_ | HELLO 3.0 | HELLO 99999999999999999999",
    "HELLO 3 nosuch | HELLO 3 AUTH | HELLO 3 AUTH default | HELLO 2 SETNAME | HELLO 2 SETNAME a\u{a0}b | HELLO 2 AUTH nosuch x",
    "HELLO 3 SETNAME client-1 | CLIENT GETNAME | HELLO 2 AUTH default any SETNAME client-2 | CLIENT GETNAME",
    "CLIENT SETINFO lib-name a\u{a0}b | CLIENT SETINFO LIB-VER 1.2 | CLIENT SETINFO nosuch 1 | CLIENT SETINFO",
    "CLIENT SETNAME a\u{0}b | CLIENT SETNAME b",
    "SCAN -1 COUNT 0 | SCAN abc | SCAN %_ COUNT x | SSCAN %t -1 COUNT 0 | HSCAN %h abc | ZSCAN %z %_ COUNT x",
    "XREAD STREAMS %x | XREAD STREAMS %x %x 0 | XREADGROUP GROUP g1 c1 STREAMS %x %x > | xread COUNT x STREAMS %x 0",
    "EVALSHA abc 0 | EVALSHA abc x | EVALSHA_RO %_ 1 | EVAL return\u{a0}1 x | EVAL return\u{a0}1 -1 | FCALL f1 x",
    "CLIENT SETNAME %i | CLIENT GETNAME | CLIENT SETNAME a\u{a0}b | CLIENT GETNAME | CLIENT SETNAME %_ | CLIENT GETNAME",
    "AUTH a | AUTH default a | AUTH nosuch a | AUTH a b c",
    "SELECT 1 | SET %s 1 | SELECT 0 | GET %s | SELECT 1 | GET %s",
    "SELECT 0",
    "SELECT 16 | SELECT -1 | SELECT abc | SELECT 99999999999 | SELECT 1.0 | SELECT %_",
    "SELECT 2 | COPY %s %S DB 1 | SELECT 1 | GET %S | SELECT 0",
    "SELECT 1 | RESET | SELECT 0",
    "RESET | CLIENT GETNAME",
    "CLIENT NO-EVICT ON | CLIENT NO-EVICT off | CLIENT NO-EVICT x | CLIENT GETREDIR",
    "PING | PING %m | PING a b | ECHO %m | ECHO",
    // About other clients: none is meant.
    "CLIENT KILL 127.0.0.1:1 | CLIENT KILL ID 999999999 | CLIENT KILL ADDR 127.0.0.1:1 SKIPME yes | CLIENT KILL TYPE nosuch | \
        CLIENT KILL ID abc | CLIENT KILL USER nosuch | CLIENT KILL nosuch nosuch | CLIENT KILL ID 1 SKIPME nosuch",
    "CLIENT UNBLOCK 999999999 | CLIENT UNBLOCK abc | CLIENT UNBLOCK 1 nosuch | CLIENT UNPAUSE",
    "CLIENT PAUSE abc | CLIENT PAUSE 1 nosuch | CLIENT PAUSE -1 | CLIENT UNPAUSE",
    "CLIENT PAUSE 1 WRITE | CLIENT UNPAUSE",
    "CLIENT LIST nosuch | CLIENT LIST TYPE nosuch | CLIENT LIST ID abc | CLIENT LIST ID 999999999",
    // Replicas: there are none.
    "SET %s 1 | WAIT 0 0 | WAIT 0 10 | WAIT 1 10",
    "WAIT -1 0 | WAIT a 0 | WAIT 0 a | WAIT 0 -1",
    "WAITAOF 0 0 10 | WAITAOF 2 0 0 | WAITAOF 0 -1 0 | WAITAOF 0 0 -1 | WAITAOF a 0 0",
    // Scripts, also those that were loaded.
    "SCRIPT FLUSH | EVALSHA %_ 0 | EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0 | SCRIPT LOAD return\u{a0}1",
    "EVAL nosuch | EVAL return -1 | EVAL return 1 | EVAL return a | EVAL return 2 %s",
    "SCRIPT EXISTS e0e1f9fabfc9d4800c877a703b823ac0578ff8db E0E1F9FABFC9D4800C877A703B823AC0578FF8DB abc | SCRIPT KILL | \
        SCRIPT FLUSH nosuch | SCRIPT FLUSH ASYNC | SCRIPT FLUSH SYNC ASYNC | FUNCTION KILL | SCRIPT nosuch",
    "FUNCTION FLUSH | FUNCTION LIST | FUNCTION DELETE l1 | FUNCTION FLUSH nosuch | FUNCTION LIST nosuch | FUNCTION DUMP x",
    // Introspection.
    "COMMAND INFO get set nosuch object|encoding object|nosuch client config|get | COMMAND INFO mget xadd eval multi zunionstore",
    "COMMAND INFO %_ | COMMAND nosuch | COMMAND COUNT x | COMMAND COUNT | COMMAND HELP",
    "COMMAND GETKEYS GET a | COMMAND GETKEYS PING | COMMAND GETKEYS nosuch | COMMAND GETKEYS GET | COMMAND GETKEYS",
    "COMMAND GETKEYS MSET a 1 b 2 | COMMAND GETKEYS EVAL x 2 a b c | COMMAND GETKEYS SORT a STORE b | \
        COMMAND GETKEYS ZUNIONSTORE d 2 a b | COMMAND GETKEYS XREAD STREAMS a b 0 0 | COMMAND GETKEYS OBJECT ENCODING a",
    "COMMAND GETKEYSANDFLAGS GET a | COMMAND GETKEYSANDFLAGS SET a 1 | COMMAND GETKEYSANDFLAGS LMOVE a b LEFT LEFT | \
        COMMAND GETKEYSANDFLAGS PING | COMMAND GETKEYSANDFLAGS nosuch | COMMAND GETKEYSANDFLAGS EVAL x 1 a",
    "COMMAND LIST FILTERBY ACLCAT string | COMMAND LIST FILTERBY PATTERN h* | COMMAND LIST FILTERBY MODULE nosuch | \
        COMMAND LIST FILTERBY | COMMAND LIST FILTERBY nosuch x | COMMAND LIST FILTERBY ACLCAT nosuch",
    "COMMAND DOCS get | COMMAND DOCS nosuch object|encoding set",
    "COMMAND LIST",
    "COMMAND",
    "CONFIG GET save | CONFIG GET maxmemory appendonly | CONFIG GET maxmemory-p* | CONFIG GET timeout | CONFIG GET databases | \
        CONFIG GET nosuch | CONFIG GET proto-max-bulk-len",
    "ACL WHOAMI | ACL CAT | ACL CAT string | ACL CAT nosuch",
    "OBJECT HELP | MEMORY HELP | XGROUP HELP | XINFO HELP | FUNCTION HELP | SCRIPT HELP | PUBSUB HELP",
    "CLIENT HELP | CONFIG HELP | COMMAND HELP",
    "ACL HELP | CLUSTER HELP | LATENCY HELP | MODULE HELP | SLOWLOG HELP",
    "OBJECT nosuch | OBJECT | OBJECT ENCODING | CLIENT | CONFIG nosuch x | MEMORY nosuch | XINFO nosuch %x | ACL nosuch | \
        CLUSTER nosuch | FUNCTION nosuch | SCRIPT | LATENCY nosuch | MODULE nosuch | SLOWLOG nosuch | PUBSUB nosuch",
    "NOSUCH | NOSUCH a %m %o | GETT %s | %_ | %o | \u{e9} | NOSUCH a b c d e f g h i j k l m n o p q r s t u v w x y z a b c d e f g \
        h i j k l m n o p",
    "OBJECT ENCODING %s | OBJECT ENCODING %w | OBJECT REFCOUNT %n | OBJECT IDLETIME %l | OBJECT FREQ %s | OBJECT ENCODING nosuch",
    "DEL %s | SET %s abc | MEMORY USAGE %s | MEMORY USAGE %s SAMPLES 0 | MEMORY USAGE nosuch | MEMORY USAGE %s SAMPLES -1",
    "EXPIRE %s 100 NX XX | EXPIRE %s 100 GT LT | EXPIRE %s abc | EXPIRE %s 9223372036854775807 | EXPIRE nosuch 100",
];

/// Sequences with at most one transaction each: what is refused in it, what ends it, and what does not.
pub const TRANSACTIONS: &[&str] = &[
    "MULTI | MULTI | SET %s 1 | MULTI | EXEC",
    "MULTI | SET %s 1 | WATCH %s | EXEC",
    "MULTI | DISCARD | DISCARD | EXEC",
    "DISCARD | EXEC | UNWATCH | WATCH %s %s | UNWATCH",
    "WATCH | MULTI a | EXEC a | DISCARD a | UNWATCH a",
    "MULTI | SET %s 1 | EXEC a | EXEC",
    "MULTI | SET %s 1 | DISCARD a | EXEC",
    "MULTI | SET %s 1 | RESET | EXEC | GET %s",
    "MULTI | EXEC",
    "MULTI | PING | ECHO %m | TIME | CLIENT GETNAME | EXEC",
    "MULTI | NOSUCH | SET %s 1 | EXEC | GET %s",
    "MULTI | OBJECT nosuch | EXEC",
    "MULTI | SELECT 1 | SET %s 1 | SELECT 0 | GET %s | EXEC | GET %s",
    "MULTI | SELECT 16 | SELECT abc | SELECT -1 | GET %s | EXEC",
    "MULTI | BLPOP nosuch 0 | XREAD BLOCK 0 STREAMS nosuch $ | EXEC",
    "MULTI | BLPOP %l 0 | BRPOPLPUSH %l %L abc | BLMPOP -1 1 %l LEFT | EXEC",
    "MULTI | WAIT 0 0 | WAIT 5 0 | EXEC",
    "MULTI | EVAL return\u{a0}redis.call('SET',KEYS[1],1) 1 %s | EVALSHA %_ 0 | EVAL nosuch 0 | EXEC",
    "MULTI | EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0 | FCALL f1 0 | FCALL nosuch 0 | EXEC",
    "MULTI | LPUSH %s a | INCR %l | GET %h | SET %n 1 | EXEC",
    "MULTI | MGET %s %S | MSET %s 1 %S 2 | DEL %s %S | EXISTS %s | EXEC",
    "MULTI | SSCAN %t 0 | HSCAN %h 0 COUNT x | ZSCAN %z abc | EXEC",
    "WATCH %s | SET %s changed | MULTI | GET %s | EXEC | GET %s",
    "WATCH %s | SET %s changed | UNWATCH | MULTI | GET %s | EXEC",
    "WATCH %s | MULTI | GET %s | DISCARD | SET %s changed | GET %s",
    "WATCH nosuch | MULTI | SET nosuch 1 | DEL nosuch | EXEC",
    "SELECT 1 | WATCH %s | MULTI | GET %s | EXEC | SELECT 0",
    "HELLO 3 | MULTI | HGETALL %h | SMEMBERS %t | ZSCORE %z m1 | GET nosuch | EXEC",
    "HELLO 2 | MULTI | HGETALL %h | SMEMBERS %t | ZSCORE %z m1 | GET nosuch | EXEC",
    // Where a node deviates.
    "MULTI | HELLO 3 | EXEC",
    "MULTI | HELLO 4 | EXEC",
    "MULTI | AUTH default x | EXEC",
    "MULTI | DBSIZE | EXEC",
    "MULTI | FUNCTION LIST | EXEC",
    "MULTI | SYNC | EXEC",
    "MULTI | HSCAN %h 5 | EXEC",
    "MULTI | COPY %s %S DB 99 | EXEC",
    "MULTI | SELECT 1 | EVAL return\u{a0}1 0 | EXEC",
    "MULTI | GET {a}s1 | SET {b}s1 1 | EXEC",
    "WATCH {a}s1 | MULTI | GET {b}s1 | EXEC",
    "WATCH %s | MULTI | SELECT 1 | GET %s | EXEC",
    "MULTI | SORT %l BY s* | EXEC",
];

/// Sequences of the whole keyspace, which are sent rarely.
pub const RARE_SEQUENCES: &[&str] = &[
    "FLUSHDB nosuch | DBSIZE | FLUSHDB | DBSIZE",
    "FLUSHDB ASYNC | DBSIZE",
    "SELECT 1 | FLUSHDB SYNC | SELECT 0",
    "FLUSHALL | DBSIZE | SET %s 1 | DBSIZE",
    "SWAPDB 0 1",
    "SWAPDB 0 16 | SWAPDB a 0 | SWAPDB 0 a | SWAPDB 0 0",
];

/// Blocked calls, after preparations, and what another client sends then.
pub const BLOCKED: &[(&str, &str, &str)] = &[
    ("DEL %l", "BLPOP %l 30", "RPUSH %l a b"),
    ("DEL %l %L", "BRPOP %L %l 30", "RPUSH %l a b"),
    ("DEL %l %L", "BLMOVE %l %L LEFT RIGHT 30", "LPUSH %l a | LRANGE %L 0 -1"),
    ("DEL %l %L", "BRPOPLPUSH %l %L 30", "LPUSH %l a b"),
    ("DEL %l %L", "BLMPOP 30 2 %l %L LEFT COUNT 2", "RPUSH %L a b c"),
    ("DEL %z", "BZPOPMIN %z 30", "ZADD %z 1 a 2 b"),
    ("DEL %z", "BZPOPMAX %z 30", "ZADD %z 1 a 2 b"),
    ("DEL %z", "BZMPOP 30 1 %z MAX", "ZADD %z 1 a 2 b"),
    ("DEL %x", "XREAD BLOCK 30000 STREAMS %x $", "XADD %x 5-1 a b"),
    ("DEL %x | XADD %x 1-1 a b", "XREAD COUNT 1 BLOCK 30000 STREAMS %x $", "XADD %x 5-1 a b | XADD %x 6-1 a b"),
    ("DEL %x | XGROUP CREATE %x g1 $ MKSTREAM", "XREADGROUP GROUP g1 c1 BLOCK 30000 STREAMS %x >", "XADD %x 5-1 a b"),
    ("DEL %l", "BLPOP %l 30", "MULTI | LPUSH %l a | DEL %l | LPUSH %l b | EXEC"),
    ("DEL %l %s", "BLPOP %l 30", "SET %s x | DEL %l | RPUSH %l a"),
];

/// The parts of iterations before and behind the cursor.
pub const ITERATIONS: &[(&str, &str)] = &[
    ("SCAN", ""),
    ("SCAN", "COUNT 3"),
    ("SCAN", "MATCH %@* COUNT 100"),
    ("SCAN", "MATCH *[sl]1 COUNT 1000"),
    ("SCAN", "TYPE list COUNT 7"),
    ("SCAN", "TYPE zset MATCH *z*"),
    ("SSCAN %t", ""),
    ("SSCAN %t", "COUNT 2 MATCH m*"),
    ("HSCAN %h", "COUNT 3"),
    ("ZSCAN %z", "MATCH m*"),
    ("SSCAN %w", ""),
];

/// Bytes of connections of their own, which end: inline commands, QUIT, and what is no protocol.
pub const RAW: &[&str] = &[
    "PING\r\nQUIT\r\n",
    "PING\nping a\nECHO \"a\\x41\\n b\"\nECHO 'a b'\nQUIT\n",
    "\r\n\r\nPING\r\n   PING   \r\nQUIT\r\n",
    "SET {a}s1 inline\r\nGET {a}s1\r\nNOSUCH a\r\nQUIT\r\n",
    "*1\r\n$4\r\nQUIT\r\n*1\r\n$4\r\nPING\r\n",
    "*2\r\n$4\r\nQUIT\r\n$1\r\nx\r\nPING\r\n",
    "ECHO \"a\r\n",
    "ECHO \"a\"b\r\n",
    "ECHO 'a\r\n",
    "*abc\r\n",
    "*1\r\nPING\r\n",
    "*1\r\n$abc\r\n",
    "*1\r\n$-1\r\n",
    "*2147483648\r\n",
    "*1\r\n$536870913\r\n",
    "*-1\r\n*0\r\nPING\r\nQUIT\r\n",
    "*2\r\n$4\r\nECHO\r\n$0\r\n\r\nQUIT\r\n",
    "*1\r\n$4\r\nPING\r\nPING\r\n*1\r\n$5\r\nRESET\r\nQUIT\r\n",
    "*3\r\n$3\r\nSET\r\n$5\r\n{a}s2\r\n$3\r\nabc\r\n*2\r\n$3\r\nGET\r\n$5\r\n{a}s2\r\nQUIT\r\n",
    "MULTI\r\nSET {a}s1 a\r\nQUIT\r\n",
    "MULTI\r\nSET {a}s1 a\r\nNOSUCH\r\nEXEC\r\nEXEC\r\nQUIT\r\n",
    "CLIENT REPLY OFF\r\nPING\r\nCLIENT REPLY ON\r\nQUIT\r\n",
    "CLIENT REPLY SKIP\r\nPING\r\nPING\r\nQUIT\r\n",
];

/// Fills in a template.
#[derive(Debug)]
pub struct Template<'a> {
    words: &'a mut Vocabulary,
    tag: &'static str,
    /// Numbers of the two keys of each type.
    keys: [usize; 2],
}

impl<'a> Template<'a> {
    /// Chooses keys of one slot.
    pub fn new(words: &'a mut Vocabulary) -> Self {
        let tag = words.one(&TAGS[..TAGS.len() - 1]);
        let first = words.rng.usize(..2);
        Self { words, tag, keys: [first, first + 1] }
    }

    /// The calls of a sequence.
    pub fn calls(&mut self, sequence: &str) -> Vec<Call> {
        sequence.split(" | ").map(|call| self.call(call)).collect()
    }

    /// One call. A no-break space in the template is a space within a word.
    pub fn call(&mut self, template: &str) -> Call {
        template.split_ascii_whitespace().map(|word| self.word(word)).collect()
    }

    fn word(&mut self, template: &str) -> Vec<u8> {
        let Some(at) = template.find('%') else { return template.replace('\u{a0}', " ").into_bytes() };
        let (before, rest) = template.split_at(at);
        let (letter, after) = (rest.as_bytes()[1], &rest[2..]);
        let value = match letter {
            b'@' => self.tag.as_bytes().to_vec(),
            b'm' => self.words.member(),
            b'i' => self.words.integer(),
            b'e' => self.words.new_entry(),
            b'o' => self.words.odd(),
            b'_' => Vec::new(),
            _ => {
                let key = self.keys[usize::from(letter.is_ascii_uppercase())];
                format!("{}{}{key}", self.tag, char::from(letter.to_ascii_lowercase())).into_bytes()
            }
        };
        [before.as_bytes(), &value, after.as_bytes()].concat()
    }
}
