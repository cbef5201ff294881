//! The short form of the annotation `hostport.io/ports`:
//! `grpc=19805, health=9090/tcp, game=7777/tcp+udp@games`.
//!
//! ```text
//! list      = entry , { "," , entry } ;
//! entry     = blanks , name , "=" , container , [ "/" , protocol ] , [ "@" , group ] , blanks ;
//! name      = DNS label: 1 to 63 of "a".."z", "0".."9" and "-", no "-" at the ends ;
//! container = number from 1 to 65535 | "same" ;
//! protocol  = "tcp" | "udp" | "sctp" | "tcp+udp" ;          (* in any case; absent: tcp *)
//! group     = 1 to 63 of "A".."Z", "a".."z", "0".."9", "-" and "_" ;
//! blanks    = { " " | tab | line feed | carriage return } ; (* nowhere else *)
//! ```

use super::{
    ContainerPort,
    ask::{self, Ask, Fit, Place, Source, Wish},
};
use crate::lease::{Excerpt, HostAddress, Protocol};

/// Why a list is refused: the entry, the place in it, and what is allowed there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place} ({entry}), character {character}: {part} is not {expected}{hint}")]
pub struct ListError {
    /// The entry.
    place: Place,
    /// The entry as it is written.
    entry: Excerpt,
    /// Where the part begins in the whole value, in characters from 1.
    character: usize,
    /// The part that is refused.
    part: Excerpt,
    expected: &'static str,
    /// What was probably meant; empty or an addition to the sentence.
    hint: &'static str,
}

/// What may stand around an entry.
pub(super) const BLANKS: [char; 4] = [' ', '\t', '\n', '\r'];

/// What a list asks for, without defaults.
pub(super) fn parse(text: &str) -> Result<Vec<Ask>, ListError> {
    let entries = text.split(',').map(|entry| entry.trim_matches(BLANKS)).enumerate();
    entries.map(|(index, entry)| parse_entry(text, index, entry)).collect()
}

fn parse_entry(text: &str, index: usize, entry: &str) -> Result<Ask, ListError> {
    const NAME: &str = "a port name: at most 63 lower-case letters, digits and '-', a letter or \
                        digit at both ends";
    const SURPLUS: &str = "; is there a comma too many?";
    const BLANK: &str = "; a comma ends an entry, which has no blanks inside";
    let place = Place { source: Source::Annotations, index };
    let hint = match entry {
        "" => SURPLUS,
        _ if entry.contains(BLANKS) => BLANK,
        _ => "",
    };
    let wrong = |part: &str, expected| ListError {
        place,
        entry: Excerpt::quoted(entry),
        character: ask::character(text, part),
        part: Excerpt::quoted(part),
        expected,
        hint,
    };
    let (name, rest) = entry
        .split_once('=')
        .ok_or_else(|| wrong(entry, "NAME=CONTAINERPORT[/PROTOCOL][@GROUP]"))?;
    let (rest, group) = match rest.split_once('@') {
        Some((rest, group)) => (rest, Some(group)),
        None => (rest, None),
    };
    let (container, protocol) = match rest.split_once('/') {
        Some((container, protocol)) => (container, Some(protocol)),
        None => (rest, None),
    };

    let name = name.parse().map_err(|_| wrong(name, NAME))?;
    let container = match container {
        "same" => ContainerPort::Same,
        number => ContainerPort::Number(
            ask::port(number).ok_or_else(|| wrong(number, "a port from 1 to 65535 or \"same\""))?,
        ),
    };
    let protocols = match protocol {
        None => Protocol::Tcp.into(),
        Some(text) => {
            ask::protocols(text).ok_or_else(|| wrong(text, "tcp, udp, sctp or tcp+udp"))?
        }
    };
    let parse_group = |text: &str| {
        text.parse()
            .map_err(|_| wrong(text, "a group's name: 1 to 63 letters, digits, '-' and '_'"))
    };
    let fit = Fit { group: group.map(parse_group).transpose()?, ..Fit::default() };
    Ok(Ask {
        place,
        name: Some(name),
        container,
        protocols,
        address: HostAddress::Any,
        count: 1,
        wish: Wish::Dynamic(fit),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        let written =
            " grpc=19805,\thealth=9090/TCP ,\ngame=7777/Tcp+Udp@Games_1,s=same/sctp,x=65535@g ";
        let shown = parse(written).unwrap().into_iter().map(|ask| {
            let Wish::Dynamic(fit) = ask.wish else { panic!() };
            assert_eq!((ask.count, ask.address), (1, HostAddress::Any));
            let container = match ask.container {
                ContainerPort::Number(port) => port.to_string(),
                ContainerPort::Same => "same".to_owned(),
            };
            let group = fit.group.map(|group| format!("@{group}")).unwrap_or_default();
            format!("{}={container}/{}{group}", ask.name.unwrap(), ask.protocols)
        });
        assert_eq!(
            shown.collect::<Vec<_>>().join(","),
            "grpc=19805/tcp,health=9090/tcp,game=7777/tcp+udp@Games_1,s=same/sctp,x=65535/tcp@g"
        );
    }

    #[test]
    fn errors_point_at_entry_and_character() {
        const FORM: &str = "is not NAME=CONTAINERPORT[/PROTOCOL][@GROUP]";
        const PORTS: &str = "is not a port from 1 to 65535 or \"same\"";
        const PROTOCOLS: &str = "is not tcp, udp, sctp or tcp+udp";
        for (text, place, reason) in [
            ("x=1, health=90x/tcp", "2 (\"health=90x/tcp\"), character 13: \"90x\"", PORTS),
            ("", "1 (\"\"), character 1: \"\"", FORM),
            ("a=1,", "2 (\"\"), character 5: \"\"", FORM),
            ("a=1,,b=2", "2 (\"\"), character 5: \"\"", FORM),
            ("80", "1 (\"80\"), character 1: \"80\"", FORM),
            ("a=", "1 (\"a=\"), character 3: \"\"", PORTS),
            ("a=0", "1 (\"a=0\"), character 3: \"0\"", PORTS),
            ("a=65536", "1 (\"a=65536\"), character 3: \"65536\"", PORTS),
            ("a=Same", "1 (\"a=Same\"), character 3: \"Same\"", PORTS),
            ("a= 80", "1 (\"a= 80\"), character 3: \" 80\"", PORTS),
            ("a=80-90", "1 (\"a=80-90\"), character 3: \"80-90\"", PORTS),
            ("a=80/", "1 (\"a=80/\"), character 6: \"\"", PROTOCOLS),
            ("a=80/icmp", "1 (\"a=80/icmp\"), character 6: \"icmp\"", PROTOCOLS),
            ("a=80/udp+tcp", "1 (\"a=80/udp+tcp\"), character 6: \"udp+tcp\"", PROTOCOLS),
            ("a=80/tcp/udp", "1 (\"a=80/tcp/udp\"), character 6: \"tcp/udp\"", PROTOCOLS),
            ("a=80@", "1 (\"a=80@\"), character 6: \"\"", "is not a group's name: "),
            ("a=80@../x", "1 (\"a=80@../x\"), character 6: \"../x\"", "is not a group's name: "),
            ("a=80@g/tcp", "1 (\"a=80@g/tcp\"), character 6: \"g/tcp\"", "is not a group's name: "),
            ("=80", "1 (\"=80\"), character 1: \"\"", "is not a port name: "),
            ("ä=1, B=80", "1 (\"ä=1\"), character 1: \"ä\"", "is not a port name: "),
            (
                "a=1,\u{202e}=80",
                "2 (\"\\u{202e}=80\"), character 5: \"\\u{202e}\"",
                "is not a port name: ",
            ),
            ("a=1,a b=80", "2 (\"a b=80\"), character 5: \"a b\"", "is not a port name: "),
        ] {
            let error = parse(text).unwrap_err().to_string();
            let expected = format!("hostport.io/ports, entry {place} {reason}");
            assert!(error.starts_with(&expected), "{text:?}: {error}");
        }
    }

    /// Lists over several lines are often written without commas, or with one at
    /// the end.
    #[test]
    fn what_ends_an_entry_is_said_where_that_was_mistaken() {
        for (text, end) in [
            ("a=1,\nb=2,\n", "[@GROUP]; is there a comma too many?"),
            ("a=1,,b=2", "[@GROUP]; is there a comma too many?"),
            ("a=1\nb=2\n", "\"same\"; a comma ends an entry, which has no blanks inside"),
            ("a=1 b=2", "\"same\"; a comma ends an entry, which has no blanks inside"),
            ("a = 1", "at both ends; a comma ends an entry, which has no blanks inside"),
            ("a=x", "65535 or \"same\""),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.ends_with(end), "{text:?}: {error}");
        }
    }
}
