//! MODULE LIST: the modules that all servers of a product have. Knows nothing of how they are found out.

use super::version::Software;
use crate::resp::write::{self, Version};

/// Writes the modules, in the form of MODULE LIST.
pub(super) fn list(software: &Software, version: Version, out: &mut Vec<u8>) {
    write::array(out, software.modules.len());
    for (name, number) in &software.modules {
        write::map(out, 4, version);
        write::bulk(out, b"name");
        write::bulk(out, name.as_bytes());
        write::bulk(out, b"ver");
        write::int(out, *number);
        // Where a server has its modules is nothing that clients have to know.
        write::bulk(out, b"path");
        write::bulk(out, b"");
        write::bulk(out, b"args");
        write::array(out, 0);
    }
}
