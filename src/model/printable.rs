//! Texts from outside, in a form that a terminal and a log can show.

/// Characters that are not shown, or that change how the text around them is shown: soft hyphen, marks of the direction
/// of writing, zero widths, separators of lines, tags. The list is fixed, so that every version makes the same text.
const INVISIBLE: [std::ops::RangeInclusive<char>; 9] = [
    '\u{ad}'..='\u{ad}',
    '\u{61c}'..='\u{61c}',
    '\u{180e}'..='\u{180e}',
    '\u{200b}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{feff}'..='\u{feff}',
    '\u{fff9}'..='\u{fffb}',
    '\u{e0000}'..='\u{e007f}',
];

/// `text` with control characters and invisible ones as `\u{7}`, cut at `len_max` bytes.
#[must_use]
pub fn printable(text: &str, len_max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(len_max));
    for c in text.chars() {
        let hidden = c.is_control() || INVISIBLE.iter().any(|range| range.contains(&c));
        let len = if hidden { c.escape_unicode().count() } else { c.len_utf8() };
        if out.len() + len > len_max {
            break;
        }
        if hidden { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped_and_the_rest_is_cut() {
        assert_eq!(printable("Jürgen's shell", 99), "Jürgen's shell");
        assert_eq!(printable("a\x1b[2Jb\nc\u{9b}d", 99), "a\\u{1b}[2Jb\\u{a}c\\u{9b}d");
        assert_eq!(printable("x\u{202e}y\u{200b}", 99), "x\\u{202e}y\\u{200b}");
        assert_eq!(printable("abc", 2), "ab");
        // Never within a character, nor within an escape.
        assert_eq!(printable("aü", 2), "a");
        assert_eq!(printable("a\x1bb", 4), "a");
        assert_eq!(printable("", 0), "");
    }
}
