//! Patterns of Redis: `*`, `?`, `[a-c]`, `[^a]`, `\x`. Knows nothing of what they are compared with.

/// Characters of a pattern that are compared; a longer one matches nothing. No name is that long.
const PATTERN_MAX: usize = 256;

/// Whether `text` matches `pattern`. (Redis, `stringmatchlen`.) The time is bounded by the product of both lengths.
pub(in crate::proxy::local) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    if pattern.len() > PATTERN_MAX {
        return false;
    }
    let (mut p, mut t) = (0, 0);
    // Behind the last star, and where its text began.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if p < pattern.len() && pattern[p] == b'*' {
            p += 1;
            star = Some((p, t));
            continue;
        }
        if t == text.len() && p == pattern.len() {
            return true;
        }
        if t < text.len()
            && p < pattern.len()
            && let Some(next) = one(&pattern[p..], text[t])
        {
            p += next;
            t += 1;
            continue;
        }
        match star {
            // The star takes one more.
            Some((behind, from)) if from < text.len() => {
                star = Some((behind, from + 1));
                (p, t) = (behind, from + 1);
            }
            _ => return false,
        }
    }
}

/// The length of the first element of the pattern, which is no star, if `c` matches it.
fn one(pattern: &[u8], c: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => (*escaped == c).then_some(2),
        [b'[', class @ ..] => {
            let not = class.first() == Some(&b'^');
            let mut at = usize::from(not);
            let mut found = false;
            while at < class.len() && class[at] != b']' {
                match &class[at..] {
                    [b'\\', escaped, ..] => {
                        found |= *escaped == c;
                        at += 2;
                    }
                    [from, b'-', to, ..] => {
                        let (low, high) = if from <= to { (from, to) } else { (to, from) };
                        found |= (*low..=*high).contains(&c);
                        at += 3;
                    }
                    [one, ..] => {
                        found |= *one == c;
                        at += 1;
                    }
                    [] => break,
                }
            }
            // Without an end, the class ends with the pattern.
            (found != not).then_some((at + 2).min(pattern.len()))
        }
        [same, ..] => (*same == c).then_some(1),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text, want) in [
            ("*", "", true),
            ("*", "save", true),
            ("", "", true),
            ("", "a", false),
            ("save", "save", true),
            ("save", "saved", false),
            ("max*", "maxmemory", true),
            ("*-size", "list-max-listpack-size", true),
            ("*max*size*", "list-max-listpack-size", true),
            ("*max*nothing*", "list-max-listpack-size", false),
            ("h?z", "hz", false),
            ("h?", "hz", true),
            ("[a-h]z", "hz", true),
            ("[h-a]z", "hz", true),
            ("[^h]z", "hz", false),
            ("[^a]z", "hz", true),
            ("[\\h]z", "hz", true),
            ("\\hz", "hz", true),
            ("h[z", "hz", true),
            ("[", "[", false),
            ("a*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), want, "{pattern} {text}");
        }
        assert!(!matches(&[b'*'; PATTERN_MAX + 1], b"a"));
    }
}
