//! Scripts and libraries of functions that generated calls use. Knows nothing of how they are called.

/// Bodies for EVAL and SCRIPT LOAD: every kind of reply and error. They use at most one key and one argument.
pub const BODIES: [&str; 26] = [
    "return 1",
    "return {1,2,'a',{3,{}}}",
    "return {1,nil,2}",
    "return 3.99",
    "return true",
    "return false",
    "return redis.status_reply('FINE')",
    "return redis.error_reply('MY error')",
    "return {err='OTHER error'}",
    "return {ok='FINE'}",
    "return tostring(KEYS[1])..#ARGV",
    "return redis.sha1hex('')",
    "return cjson.encode({1,'a'})",
    "return redis.call('GET',KEYS[1])",
    "return redis.call('INCR',KEYS[1])",
    "return redis.call('LRANGE',KEYS[1],0,-1)",
    "return redis.pcall('LPUSH',KEYS[1],tostring(ARGV[1]))",
    "return redis.call('SET',KEYS[1])",
    "return redis.call('NOSUCH')",
    "return redis.pcall('NOSUCH')",
    "redis.setresp(3); return redis.call('ZRANGE',KEYS[1],0,-1,'WITHSCORES')",
    "redis.setresp(3); return {double=3.5}",
    "error('boom')",
    "this is no script",
    "#!lua flags=no-writes\nreturn redis.call('SET',KEYS[1],'x')",
    "#!nosuch\nreturn 1",
];

/// Libraries for FUNCTION LOAD. The functions of the first two do not have the same names, those of the third do.
pub const LIBRARIES: [&str; 6] = [
    "#!lua name=l1\nredis.register_function('f1', function(keys, args) return #keys..#args end)",
    "#!lua name=l2\nredis.register_function('f2', function(keys, args) return redis.call('SET', keys[1], 'f2') end)\n\
        redis.register_function{function_name='ro1', callback=function(keys) return redis.call('GET', keys[1]) end, \
        flags={'no-writes'}}",
    "#!lua name=l3\nredis.register_function('f1', function() return 3 end)",
    "#!lua name=l1\nthis is no library",
    "#!lua\nreturn 1",
    "no library",
];
