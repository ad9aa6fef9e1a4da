//! Compares the scanners of `resp` with redis-protocol on generated messages: complete, in pieces and changed at every
//! byte.
#![allow(clippy::unwrap_used)]

#[path = "support/resp_checks.rs"]
mod resp_checks;

use pontoon::resp::{limits::NESTING_MAX, reply::ReplyScanner, request::RequestScanner};
use proptest::prelude::*;
use resp_checks::{Found, check_replies, check_requests, replies, requests};

fn push_bulk(out: &mut Vec<u8>, kind: char, bytes: &[u8]) {
    out.extend(format!("{kind}{}\r\n", bytes.len()).bytes());
    out.extend(bytes);
    out.extend(b"\r\n");
}

fn request_of(args: &[Vec<u8>]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        push_bulk(&mut out, '$', arg);
    }
    out
}

/// Bytes in which those with a meaning in RESP are frequent.
fn bytes_like_resp() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(
        prop_oneof![3 => prop::sample::select(b"*$+-:_#,(!=%~>|\r\n0123456789".to_vec()), 1 => any::<u8>()],
        0..20,
    )
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(bytes_like_resp(), 1..6).prop_map(|args| request_of(&args))
}

/// A reply of any type, possibly nested.
fn reply() -> impl Strategy<Value = Vec<u8>> {
    let line = "[ -~]{0,12}";
    let leaf = prop_oneof![
        line.prop_map(|s| format!("+{s}\r\n").into_bytes()),
        line.prop_map(|s| format!("-{s}\r\n").into_bytes()),
        any::<i64>().prop_map(|n| format!(":{n}\r\n").into_bytes()),
        any::<bool>().prop_map(|b| format!("#{}\r\n", if b { 't' } else { 'f' }).into_bytes()),
        any::<f32>().prop_filter("a number", |d| d.is_finite()).prop_map(|d| format!(",{d}\r\n").into_bytes()),
        prop::sample::select(vec![
            "_\r\n",
            ",inf\r\n",
            ",-inf\r\n",
            ",nan\r\n",
            "$0\r\n\r\n",
            "*0\r\n",
            "%0\r\n",
            "~0\r\n"
        ])
        .prop_map(|s| s.as_bytes().to_vec()),
        "-?[1-9][0-9]{0,30}".prop_map(|n| format!("({n}\r\n").into_bytes()),
        (prop::sample::select(vec!['$', '!']), bytes_like_resp()).prop_map(|(kind, bytes)| {
            let mut out = Vec::new();
            // The blob error of the oracle is text.
            push_bulk(&mut out, kind, if kind == '!' { b"ERR x\r\ny" } else { &bytes });
            out
        }),
        line.prop_map(|s| {
            let mut out = Vec::new();
            push_bulk(&mut out, '=', format!("txt:{s}").as_bytes());
            out
        }),
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        prop_oneof![
            (prop::sample::select(vec!['*', '~', '>']), prop::collection::vec(inner.clone(), 1..5)).prop_map(
                |(kind, values)| {
                    let mut out = format!("{kind}{}\r\n", values.len()).into_bytes();
                    out.extend(values.concat());
                    out
                }
            ),
            (prop::sample::select(vec!['%', '|']), prop::collection::vec(inner.clone(), 1..4), inner).prop_map(
                |(kind, values, about)| {
                    let mut out = format!("{kind}{}\r\n", values.len()).into_bytes();
                    for (i, value) in values.iter().enumerate() {
                        // Distinct keys of a type that every map accepts.
                        out.extend(format!("+key{i}\r\n").bytes());
                        out.extend(value);
                    }
                    // An attribute describes the value after it, which must not be an attribute.
                    if kind == '|' {
                        out.extend(if about.first() == Some(&b'|') { b":1\r\n".to_vec() } else { about });
                    }
                    out
                }
            ),
        ]
    })
}

fn fails(checked: Result<String, String>, bytes: &[u8]) -> Result<(), TestCaseError> {
    checked.map(drop).map_err(|why| TestCaseError::fail(format!("{why} in \"{}\"", bytes.escape_ascii())))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn requests_equal_those_of_the_oracle(pipeline in prop::collection::vec(request(), 1..4), cut in any::<prop::sample::Index>()) {
        let stream = pipeline.concat();
        fails(check_requests(&stream, &[cut.index(stream.len())]), &stream)?;
        let found = requests(&stream, []);
        prop_assert_eq!(found.error, None);
        let lens: Vec<_> = found.found.iter().map(|found| match found { Found::Request(len, _) => *len, _ => 0 }).collect();
        prop_assert_eq!(lens, pipeline.iter().map(Vec::len).collect::<Vec<_>>());
    }

    #[test]
    fn replies_equal_those_of_the_oracle(pipeline in prop::collection::vec(reply(), 1..4), cut in any::<prop::sample::Index>()) {
        let stream = pipeline.concat();
        fails(check_replies(&stream, &[cut.index(stream.len())]), &stream)?;
        let found = replies(&stream, []);
        prop_assert_eq!(found.error, None);
        let lens: Vec<_> = found.found.iter().map(|found| match found { Found::Reply(len) => *len, _ => 0 }).collect();
        prop_assert_eq!(lens, pipeline.iter().map(Vec::len).collect::<Vec<_>>());
    }

    #[test]
    fn random_bytes_are_judged_as_by_the_oracle(bytes in bytes_like_resp(), cut in any::<prop::sample::Index>()) {
        let cuts = [if bytes.is_empty() { 0 } else { cut.index(bytes.len()) }];
        fails(check_requests(&bytes, &cuts), &bytes)?;
        fails(check_replies(&bytes, &cuts), &bytes)?;
    }
}

proptest! {
    // Each case changes two messages at every byte, in two ways.
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_byte_is_judged_as_by_the_oracle(request in request(), reply in reply(), wrong in any::<u8>()) {
        for at in 0..request.len().min(60) {
            let mut broken = request.clone();
            broken[at] = wrong;
            fails(check_requests(&broken, &[at]), &broken)?;
            broken.remove(at);
            fails(check_requests(&broken, &[at]), &broken)?;
        }
        for at in 0..reply.len().min(60) {
            let mut broken = reply.clone();
            broken[at] = wrong;
            fails(check_replies(&broken, &[at]), &broken)?;
            broken.remove(at);
            fails(check_replies(&broken, &[at]), &broken)?;
        }
    }
}

/// 40 KB of `*1` overflow the stack of a process that recurses.
#[test]
fn nesting_costs_no_stack() {
    std::thread::Builder::new()
        .stack_size(64 * 1024)
        .spawn(|| {
            for kind in ["*1\r\n", "~1\r\n", ">1\r\n", "|1\r\n", "%1\r\n"] {
                let deep = kind.repeat(NESTING_MAX * 2);
                assert!(ReplyScanner::default().scan(deep.as_bytes()).is_err(), "{kind:?}");
                assert!(RequestScanner::default().scan(&[b"*1\r\n", deep.as_bytes()].concat()).is_err(), "{kind:?}");
            }
        })
        .unwrap()
        .join()
        .unwrap();
}

/// The checks detect a wrong scanner.
#[test]
fn a_wrong_scanner_is_detected() {
    let once = requests(b"*1\r\n$1\r\na\r\nPING\r\n", []);
    assert_eq!(once.found, [Found::Request(11, vec![(8, 9)]), Found::Inline(6)]);
    assert_ne!(once, requests(b"*1\r\n$1\r\na\r\nPING\r", []));
    assert!(requests(b"*1\r\n$1\r\nab\r\n", []).error.is_some());
    assert_eq!(replies(b"*1\r\n+a\r\n:1\r\n", 1..12).found, [Found::Reply(8), Found::Reply(4)]);
}
