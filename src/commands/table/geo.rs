//! Geographical indexes.
//! Rows only; `spec` and `keys` interpret them.

use super::super::keys::KeySpec;
use super::super::spec::flag::{DENYOOM, MOVABLEKEYS, READONLY, WRITE};
use super::super::spec::{Spec, cmd};
use super::{KEY, PAIR, SLOT};

pub(super) static GEO: &[Spec] = &[
    cmd("geoadd", -5, WRITE | DENYOOM, KEY, SLOT),
    cmd("geodist", -4, READONLY, KEY, SLOT),
    cmd("geohash", -2, READONLY, KEY, SLOT),
    cmd("geopos", -2, READONLY, KEY, SLOT),
    cmd("georadius", -6, WRITE | DENYOOM | MOVABLEKEYS, KeySpec::GeoStore(6), SLOT),
    cmd("georadius_ro", -6, READONLY, KEY, SLOT),
    cmd("georadiusbymember", -5, WRITE | DENYOOM | MOVABLEKEYS, KeySpec::GeoStore(5), SLOT),
    cmd("georadiusbymember_ro", -5, READONLY, KEY, SLOT),
    cmd("geosearch", -7, READONLY, KEY, SLOT),
    cmd("geosearchstore", -8, WRITE | DENYOOM, PAIR, SLOT),
];
