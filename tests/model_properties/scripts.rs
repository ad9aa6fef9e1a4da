//! Random changes of script catalogues.

use bytes::Bytes;
use pontoon::model::{
    change::{Change, DeleteLibraries, FlushScripts, LoadLibrary, LoadScript},
    ids::ProductId,
    limits::SCRIPT_LEN_MAX,
};

pub fn resolve(product: ProductId, [b, c, d, e]: [u16; 4]) -> Change {
    let name = |n: u16| ["one", "two", "three", "", "not a name"][usize::from(n % 5)].to_owned();
    // Some are known already, some are too long.
    let text = match c % 100 {
        0 => Bytes::from(vec![b'-'; SCRIPT_LEN_MAX + usize::from(d % 2)]),
        n => Bytes::from(format!("return {}", n % 16)),
    };
    match b % 8 {
        0 => Change::FlushScripts(FlushScripts { product }),
        1 | 2 => Change::LoadLibrary(LoadLibrary { product, name: name(e), code: text }),
        3 => Change::DeleteLibraries(DeleteLibraries { product, names: (0..1 + d % 2).map(|n| name(e + n)).collect() }),
        _ => Change::LoadScript(LoadScript { product, body: text }),
    }
}
