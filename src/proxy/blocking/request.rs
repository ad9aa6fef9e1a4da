//! The request of a blocking call as it is sent: with the time that is left, and with ids instead of "from now on".
//! Pure. Knows nothing of clocks.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    commands::{Args, BlockTimeout, Spec, from_now_on},
    proxy::dispatch::CallContext,
    resp::{
        number::{Header, header},
        write,
    },
};

/// A blocking call on its way to servers.
#[derive(Debug)]
pub(super) struct BlockingRequest {
    timeout: Option<BlockTimeout>,
    /// Keys of XREAD whose last id must be asked for, with the position of the id.
    unresolved: Vec<(usize, usize)>,
    /// Arguments that are replaced in every request.
    replaced: BTreeMap<usize, Vec<u8>>,
}

impl BlockingRequest {
    pub(super) fn new(spec: &Spec, call: &CallContext<'_>) -> Self {
        Self { timeout: BlockTimeout::of(spec, call), unresolved: from_now_on(spec, call), replaced: BTreeMap::new() }
    }

    /// For how long it waits at most. `None`: for ever, or the server will say that the timeout is not valid.
    pub(super) fn length(&self) -> Option<Duration> {
        self.timeout?.length
    }

    /// The requests that ask for the last ids, one for each key whose entries are awaited from now on.
    pub(super) fn questions(&self, call: &CallContext<'_>) -> Vec<Vec<u8>> {
        let question = |(key, _): &(usize, usize)| {
            let mut out = Vec::new();
            write::request(&mut out, &[b"XINFO", b"STREAM", call.get(*key)]);
            out
        };
        self.unresolved.iter().map(question).collect()
    }

    /// Takes the answers to [`questions`](Self::questions). What is not answered as expected stays as it is: the server
    /// will answer the call in the same way.
    pub(super) fn resolve(&mut self, answers: &[Vec<u8>]) {
        for ((_, at), answer) in std::mem::take(&mut self.unresolved).into_iter().zip(answers) {
            if let Some(id) = last_id(answer) {
                self.replaced.insert(at, id);
            }
        }
    }

    /// The request with this time left; `None`: what the client sent can be sent as it is.
    pub(super) fn rewritten(&self, call: &CallContext<'_>, left: Option<Duration>) -> Option<Vec<u8>> {
        let mut replaced = self.replaced.clone();
        if let (Some(timeout), Some(left)) = (self.timeout, left) {
            let whole = timeout.length.map(|length| timeout.argument(length));
            let argument = timeout.argument(left);
            // The client's own words as long as they say the same.
            if whole.as_ref() != Some(&argument) {
                replaced.insert(timeout.at, argument.into_bytes());
            }
        }
        if replaced.is_empty() {
            return None;
        }
        let args: Vec<&[u8]> =
            (0..call.args.len()).map(|i| replaced.get(&i).map_or_else(|| call.get(i), Vec::as_slice)).collect();
        let mut out = Vec::new();
        write::request(&mut out, &args);
        Some(out)
    }
}

/// The last id in a reply to XINFO STREAM; that of an empty stream if there is no stream.
fn last_id(reply: &[u8]) -> Option<Vec<u8>> {
    const FIELD: &[u8] = b"$17\r\nlast-generated-id\r\n$";
    if reply.starts_with(b"-ERR no such key") {
        return Some(b"0-0".to_vec());
    }
    // It comes before anything that a client has written.
    let at = reply.windows(FIELD.len()).position(|window| window == FIELD)? + FIELD.len();
    let Header::Number(len, from) = header(reply, at) else { return None };
    reply.get(from..from.checked_add(usize::try_from(len).ok()?)?).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{commands::resolve, resp::request::RequestScanner};

    /// The request that is sent for `words` after these answers, with this time left in milliseconds.
    fn sent(words: &str, answers: &[&str], left_ms: Option<u64>) -> Option<String> {
        let mut bytes = Vec::new();
        write::request(&mut bytes, &words.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        let mut scanner = RequestScanner::default();
        scanner.scan(&bytes).unwrap();
        let call = CallContext { bytes: &bytes, args: scanner.args() };
        let mut request = BlockingRequest::new(resolve(&call).unwrap(), &call);
        assert_eq!(request.questions(&call).len(), answers.len());
        request.resolve(&answers.iter().map(|answer| answer.as_bytes().to_vec()).collect::<Vec<_>>());
        let out = request.rewritten(&call, left_ms.map(Duration::from_millis))?;
        let mut scanner = RequestScanner::default();
        scanner.scan(&out).unwrap();
        let text = |arg: &crate::resp::request::Arg| String::from_utf8_lossy(arg.of(&out)).into_owned();
        Some(scanner.args().iter().map(text).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn the_first_request_is_the_clients_own() {
        for words in ["BLPOP k 0", "BLPOP k nonsense", "BLPOP k -1", "XREAD BLOCK 0 STREAMS s 0"] {
            assert_eq!(sent(words, &[], None), None, "{words}");
        }
        for words in ["BLPOP k 1.50", "XREAD BLOCK 1500 STREAMS s 0"] {
            assert_eq!(sent(words, &[], Some(1500)), None, "{words}");
        }
    }

    #[test]
    fn later_requests_have_the_time_that_is_left() {
        assert_eq!(sent("BLPOP a b 5", &[], Some(1200)).unwrap(), "BLPOP a b 1.200");
        assert_eq!(sent("BLMPOP 5 1 a LEFT", &[], Some(0)).unwrap(), "BLMPOP 0.001 1 a LEFT");
        assert_eq!(sent("XREAD BLOCK 5000 STREAMS s 7", &[], Some(3)).unwrap(), "XREAD BLOCK 3 STREAMS s 7");
    }

    #[test]
    fn from_now_on_becomes_an_id() {
        let info = "*4\r\n$6\r\nlength\r\n:1\r\n$17\r\nlast-generated-id\r\n$4\r\n12-3\r\n";
        let resp3 = "%2\r\n$6\r\nlength\r\n:1\r\n$17\r\nlast-generated-id\r\n$3\r\n4-0\r\n";
        assert_eq!(
            sent("XREAD BLOCK 0 STREAMS a b c $ 1-1 $", &[info, resp3], None).unwrap(),
            "XREAD BLOCK 0 STREAMS a b c 12-3 1-1 4-0"
        );
        assert_eq!(
            sent("XREAD BLOCK 9 STREAMS a $", &["-ERR no such key\r\n"], Some(4)).unwrap(),
            "XREAD BLOCK 4 STREAMS a 0-0"
        );
        // The server says what is wrong.
        assert_eq!(sent("XREAD BLOCK 0 STREAMS a $", &["-WRONGTYPE no\r\n"], None), None);
        assert_eq!(sent("XREAD BLOCK 0 STREAMS a $", &["$17\r\nlast-generated-id\r\n$99\r\n1"], None), None);
    }
}
