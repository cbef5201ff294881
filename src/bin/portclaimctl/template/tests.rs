use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

const FILE: &str = "web.yaml";

fn ports(ports: &[(&str, u16)]) -> BTreeMap<String, u16> {
    ports.iter().map(|(name, port)| ((*name).to_owned(), *port)).collect()
}

/// What the text becomes, or all that is said about why it does not.
fn render(text: &str, set: &[(&str, u16)]) -> Result<String, String> {
    let rendered = Template::parse(FILE, text).and_then(|template| template.render(&ports(set)));
    rendered.map_err(|error| format!("{:#}", anyhow::Error::from(error)))
}

macro_rules! example {
    ($name:literal) => {
        (
            concat!($name, ".yaml"),
            include_str!(concat!("examples/", $name, ".yaml")),
            include_str!(concat!("examples/", $name, ".rendered.yaml")),
        )
    };
}

#[test]
fn the_documented_examples_render() {
    let mut set = ports(&[
        ("web", 20001),
        ("metrics", 20002),
        ("health", 20003),
        ("required", 20004),
        ("optional", 20005),
        ("https", 20006),
        ("prometheus", 20007),
        ("grafana", 20008),
        ("alertmanager", 20009),
    ]);
    let examples = [
        example!("basic"),
        example!("multiple"),
        example!("conditional"),
        example!("web"),
        example!("monitoring"),
    ];
    for (file, text, rendered) in examples {
        assert_eq!(Template::parse(file, text).unwrap().render(&set).unwrap(), rendered, "{file}");
        let windows = text.replace('\n', "\r\n");
        let template = Template::parse(file, &windows).unwrap();
        assert_eq!(template.render(&set).unwrap(), rendered.replace('\n', "\r\n"), "{file}");
    }

    set.remove("optional");
    for (file, text, rendered) in examples {
        let without = match file {
            "conditional.yaml" => include_str!("examples/conditional.without.yaml"),
            _ => rendered,
        };
        assert_eq!(Template::parse(file, text).unwrap().render(&set).unwrap(), without, "{file}");
    }
    let (file, text, _) = example!("conditional");
    let template = Template::parse(file, text).unwrap();
    let error = template.render(&ports(&[("optional", 1)])).unwrap_err();
    assert_eq!(error.to_string(), "conditional.yaml:13: port claim \"required\" is not set");
}

#[test]
fn each_construct_means_what_it_means_in_blade() {
    let (a, b) = ("$portClaims['a']", "$portClaims['b']");
    for (text, set, rendered) in [
        // Echoes.
        ("{{ $portClaims['a'] }}".to_owned(), "a", "1"),
        ("{{$portClaims[\"a\"]}}{{\n$portClaims [ 'a' ]\t}}".to_owned(), "a", "11"),
        (format!("{{{{ {a} ?? 8080 }}}}|{{{{ {b}??65535}}}}"), "a", "1|65535"),
        // Conditions.
        // The "@" follows a letter here: it is text.
        (format!("@if(isset({a}))x@else y @endif"), "a", "x@else y "),
        (format!("@if(isset({a})) x @else y @endif"), "a", " x "),
        (format!("@if(isset({a})) x @else y @endif"), "", " y "),
        (format!("@if (\n isset ( {a} , {b} )\n) x @endif"), "a", ""),
        (format!("@if(isset({a}, {b})) x @endif"), "ab", " x "),
        (format!("@if(!isset({a})) x @endif"), "", " x "),
        (format!("@if(!!isset({a})) x @endif"), "", ""),
        (format!("@if(isset({a}) && isset({b})) x @endif"), "b", ""),
        (format!("@if(isset({a}) || isset({b})) x @endif"), "b", " x "),
        // "&&" binds more tightly than "||", as in PHP.
        (format!("@if(isset({a}) || isset({b}) && !isset({a})) x @endif"), "a", " x "),
        (format!("@if((isset({a}) || isset({b})) && !isset({a})) x @endif"), "a", ""),
        (format!("@if(isset({a})) x @elseif(isset({b})) y @else z @endif"), "ab", " x "),
        (format!("@if(isset({a})) x @elseif(isset({b})) y @else z @endif"), "b", " y "),
        (format!("@if(isset({a})) x @elseif(isset({b})) y @else z @endif"), "", " z "),
        (format!("@isset({a}) x @else y @endisset"), "a", " x "),
        (format!("@isset({a}, {b}) x @endisset."), "a", "."),
        (format!("@If(isset({a})) x @endIf"), "a", " x "),
        (format!("@if(isset({a}))\n@isset({b})\n{{{{ {b} }}}}\n@endisset\n@endif\n"), "ab", "2\n"),
        // What is kept, and what is not.
        ("a{{-- {{ b --}}c{{----}}".to_owned(), "", "ac"),
        (format!("@{{{{ {a} }}}} @{{{{-- x }}}}"), "", "{{ $portClaims['a'] }} {{-- x }}"),
        ("root@{{ x }} @@{{ x }}".to_owned(), "", "root{{ x }} @{{ x }}"),
        (format!("@@if(isset({a})) @@endif @@@if"), "", "@if(isset($portClaims['a'])) @endif @@if"),
        (
            format!("@@foreach ({a} as $b) @@other(x"),
            "",
            "@foreach ($portClaims['a'] as $b) @other(x",
        ),
        (
            format!("@verbatim{{{{ .Values.x }}}} @if({a}@endverbatim!"),
            "",
            "{{ .Values.x }} @if($portClaims['a']!",
        ),
        (format!("x\n @verbatim\n {{{{\n{b}\n@endverbatim \ny"), "", "x\n {{\n$portClaims['b']\ny"),
    ] {
        let set: Vec<_> =
            [("a", 1), ("b", 2)].into_iter().filter(|(n, _)| set.contains(n)).collect();
        assert_eq!(render(&text, &set).as_deref(), Ok(rendered), "{text}");
    }
}

#[test]
fn text_comes_out_byte_for_byte() {
    for text in [
        "",
        "\n",
        "\r\n\r\n",
        "no end",
        " \t \n  indented\n\n\n",
        "\u{feff}a\u{fdd0}\u{1}\u{7f}ü\r",
        "mail a@if.example, ü@if(x), 1@endif, _@else",
        "@daily @ifx @elsewhere @media(print) @ @@ @@@ @1",
        "{ } }} {a: {b: 1}} ${x} $portClaim $portClaimsX $$ {%x%} {# #} %} {!!str a}",
        "--}} @",
        "<?php echo 1; ?>\n",
        "'\"\\ \\n &amp; <b>",
    ] {
        assert_eq!(render(text, &[]).as_deref(), Ok(text), "{text:?}");
    }
}

#[test]
fn lines_of_directives_alone_go_away() {
    let set = &[("a", 1)];
    for (text, rendered) in [
        ("x:\n  @if(isset($portClaims['a']))\n  - a\n  @endif\n  - b\n", "x:\n  - a\n  - b\n"),
        ("x:\r\n\t@if(isset($portClaims['b'])) \r\n  - a\r\n@endif\r\n- b", "x:\r\n- b"),
        ("@isset($portClaims['a']) @isset($portClaims['a'])\nx\n@endisset @endisset", "x\n"),
        ("x\n{{-- one\n two --}}  \n  y", "x\n  y"),
        ("x\n  {{-- one\n two --}}  y\n", "x\n    y\n"),
        // Something else is on the line: nothing of it goes away.
        ("p: @if(isset($portClaims['a'])) {{ $portClaims['a'] }} @endif\nq\n", "p:  1 \nq\n"),
        ("  {{ $portClaims['a'] }}\n", "  1\n"),
        ("\n\n@if(isset($portClaims['a']))\n\n@endif\n\n", "\n\n\n\n"),
    ] {
        assert_eq!(render(text, set).as_deref(), Ok(rendered), "{text:?}");
    }
}

#[test]
fn what_cannot_be_read_is_refused_with_file_line_and_what_is_allowed() {
    const ECHO: &str = "$portClaims['NAME'] is allowed, with \"?? PORT\" behind it for where it is \
                        not set; @{{ and @verbatim keep text as it is";
    const CONDITION: &str = "a condition of isset($portClaims['NAME']), \"!\", \"&&\", \"||\" and \
                             parentheses is allowed";
    for (text, message) in [
        ("a\n\n{{ .Values.x }}\n", format!("web.yaml:3: cannot read \"{{{{ .Values.x }}}}\": {ECHO}")),
        ("{{}}", format!("web.yaml:1: cannot read \"{{{{}}}}\": {ECHO}")),
        ("\n{{ $portClaims }}", format!("web.yaml:2: cannot read \"{{{{ $portClaims }}}}\": {ECHO}")),
        (
            "{{ $portClaims['a'] + 1 }}",
            format!("web.yaml:1: cannot read \"{{{{ $portClaims['a'] + 1 }}}}\": {ECHO}"),
        ),
        (
            "{{ $portClaims['a\"] }}",
            format!("web.yaml:1: cannot read \"{{{{ $portClaims['a\\\"] }}}}\": {ECHO}"),
        ),
        (
            "{{\n$portClaims['A'] }}",
            "web.yaml:1: cannot read \"{{\\n$portClaims['A'] }}\": claim name \"A\" is not a DNS \
             subdomain: at most 253 lower-case letters, digits, '-' and '.', a letter or digit at both ends and beside each '.'"
                .to_owned(),
        ),
        (
            "{{ $portClaims['a'] ?? 0 }}",
            "web.yaml:1: cannot read \"{{ $portClaims['a'] ?? 0 }}\": default \"0\" is not a number \
             from 1 to 65535"
                .to_owned(),
        ),
        (
            "{{ $portClaims['a'] ?? '' }}",
            "web.yaml:1: cannot read \"{{ $portClaims['a'] ?? '' }}\": default \"''\" is not a \
             number from 1 to 65535"
                .to_owned(),
        ),
        ("\r\n@if x", format!("web.yaml:2: cannot read \"@if\": {CONDITION}")),
        ("@if($x) @endif", format!("web.yaml:1: cannot read \"@if($x)\": {CONDITION}")),
        ("@elseif()", format!("web.yaml:1: cannot read \"@elseif()\": {CONDITION}")),
        (
            "@if(isset($portClaims['a']) and true)",
            format!("web.yaml:1: cannot read \"@if(isset($portClaims['a']) and true)\": {CONDITION}"),
        ),
        (
            "@isset($a)",
            "web.yaml:1: cannot read \"@isset($a)\": $portClaims['NAME'] is allowed, several with \
             commas between them"
                .to_owned(),
        ),
    ] {
        assert_eq!(render(text, &[]), Err(message), "{text:?}");
    }
    let long = render(&format!("{{{{ {} }}}}", "ü".repeat(200)), &[]).unwrap_err();
    assert!(long.contains(&format!("\"{{{{ {}…\"", "ü".repeat(77))), "{long}");
}

#[test]
fn what_does_not_fit_together_or_is_not_set_is_refused_with_file_and_line() {
    for (text, message) in [
        (
            "x\nport: $portClaims['a']",
            "web.yaml:2: $portClaims is outside of {{ }}, @if(), @elseif() and @isset(); between \
             @verbatim and @endverbatim it is text"
                .to_owned(),
        ),
        (
            "x\n@unless(isset($portClaims['a']))",
            "web.yaml:2: @unless is not supported, only @if, @elseif, @else, @endif, @isset, \
             @endisset, @verbatim and @endverbatim are; @@unless is text"
                .to_owned(),
        ),
        ("\n{{ $portClaims['a'] }\n", "web.yaml:2: \"{{\" is not closed by \"}}\"".to_owned()),
        ("@{{ x", "web.yaml:1: \"{{\" is not closed by \"}}\"".to_owned()),
        ("a\n{{-- }}", "web.yaml:2: \"{{--\" is not closed by \"--}}\"".to_owned()),
        ("@if((a)\n", "web.yaml:1: \"(\" is not closed by \")\"".to_owned()),
        ("\n@verbatim", "web.yaml:2: \"@verbatim\" is not closed by \"@endverbatim\"".to_owned()),
        (
            "@if(isset($portClaims['a']))\n@isset($portClaims['a'])\n",
            "web.yaml:2: \"@isset\" is not closed by \"@endisset\"".to_owned(),
        ),
        ("a\n@endif", "web.yaml:2: @endif has no @if before it that is still open".to_owned()),
        (
            "@elseif(isset($portClaims['a']))",
            "web.yaml:1: @elseif has no @if or @isset before it that is still open".to_owned(),
        ),
        (
            "@endverbatim",
            "web.yaml:1: @endverbatim has no @verbatim before it that is still open".to_owned(),
        ),
        (
            "@isset($portClaims['a'])\n\n@endif",
            "web.yaml:3: @endif comes before the @endisset that the @isset of line 1 needs"
                .to_owned(),
        ),
        (
            "@isset($portClaims['a'])\n@else\n@else",
            "web.yaml:3: @else comes after the @else of the @isset of line 1".to_owned(),
        ),
        ("a\nb\0", "web.yaml:2: a NUL character is in the text".to_owned()),
        ("@verbatim\n\0@endverbatim", "web.yaml:2: a NUL character is in the text".to_owned()),
        (
            "a: {{ $portClaims['b'] }} {{ $portClaims['c'] }}\n{{ $portClaims['a'] }}\n",
            "web.yaml:1: port claim \"c\" is not set".to_owned(),
        ),
        // Lines go on where directives took theirs away, and where the engine stops
        // to count.
        (
            "@if(isset($portClaims['b']))\n{{--\n--}}\n{{ $portClaims['a'] }}\n@endif",
            "web.yaml:4: port claim \"a\" is not set".to_owned(),
        ),
        (
            &format!("{}{{{{ $portClaims['a'] }}}}", "\n".repeat(70_000)),
            "web.yaml:70001: port claim \"a\" is not set".to_owned(),
        ),
    ] {
        assert_eq!(render(text, &[("b", 2)]), Err(message), "{:?}", &text[..text.len().min(99)]);
    }
}

#[test]
fn what_no_condition_reaches_may_be_missing() {
    let text = "@if(isset($portClaims['b'])) {{ $portClaims['a'] }} @endif.";
    assert_eq!(render(text, &[]).as_deref(), Ok("."));
    let error = render(text, &[("b", 1)]).unwrap_err();
    assert_eq!(error, "web.yaml:1: port claim \"a\" is not set");
}

#[test]
fn conditions_nest_as_deeply_as_the_engine_goes() {
    let isset = "isset($portClaims['a'])";
    // The engine must take the worst of what is let through.
    let mut widest = format!("{isset} || {isset} && !{isset}");
    for _ in 0..8 {
        widest = format!("{isset} || {isset} && !({widest})");
    }
    let nested = |depth: usize, innermost: &str| {
        let (open, close) = (format!("@if({isset}) "), "@endif ");
        format!("{}@if({innermost}) x @endif {}", open.repeat(depth), close.repeat(depth))
    };
    let rendered = render(&nested(63, &widest), &[("a", 1)]).unwrap();
    assert_eq!(rendered.trim(), "x", "{rendered}");
    let deep = "web.yaml:1: at most 64 conditions may be open, each @elseif counts as one";
    for depth in [64, 1000, 10_000] {
        assert_eq!(render(&nested(depth, &widest), &[]), Err(deep.to_owned()));
    }
    let chain =
        |length| format!("@if({isset}) {}@endif ", format!("@elseif({isset}) ").repeat(length));
    assert!(render(&chain(63), &[]).is_ok());
    assert_eq!(render(&chain(64), &[]), Err(deep.to_owned()));
    // Those that are closed count no longer.
    assert!(render(&chain(63).repeat(20), &[]).is_ok());

    let large = "at most 64 claims and 8 parentheses around one are allowed";
    for condition in [
        format!("{}{isset}{}", "(".repeat(9), ")".repeat(9)),
        format!("{}{isset}{}", "(".repeat(100_000), ")".repeat(100_000)),
        format!("{isset}{}", format!(" && {isset}").repeat(64)),
        format!("isset($portClaims['a']{})", ", $portClaims['a']".repeat(64)),
    ] {
        let error = render(&format!("@if({condition}) @endif"), &[]).unwrap_err();
        assert!(error.ends_with(large), "{error}");
    }
    let most = format!("{isset}{}", format!(" && {isset}").repeat(63));
    assert!(render(&format!("@if({most}) @endif"), &[]).is_ok());
}

/// A megabyte of each takes some milliseconds; were one of them quadratic, minutes.
#[test]
fn hostile_text_takes_time_in_proportion() {
    let echo = "{{ $portClaims['a'] }}";
    for part in [
        "{{",
        "{{--",
        "@{{",
        "@{{ }}",
        "@",
        "@@",
        "@@if ",
        "@@if(",
        "@@if((",
        "@if(",
        "{",
        "}}",
        "$",
        "$portClaim",
        "\n",
        "\r",
        " ",
        "ü@if",
        "@verbatim",
        "@verbatim @endverbatim ",
        "@endverbatim",
        "{{----}}",
        "{{ $portClaims['",
        "\0",
        "@if(isset($portClaims['a']))",
        "@if(isset($portClaims['a'])) @endif ",
        "@if(!isset($portClaims['a'])) @elseif(!isset($portClaims['b'])) @else @endif\n",
        "@else",
        "<{%{#",
        echo,
    ] {
        let text = part.repeat(1_000_000 / part.len());
        let begin = Instant::now();
        let rendered = render(&text, &[("a", 1)]);
        let spent = begin.elapsed();
        assert!(spent < Duration::from_secs(20), "{part:?}: {spent:?}");
        if part == echo {
            assert_eq!(rendered, Ok("1".repeat(text.len() / echo.len())));
        }
    }
    let bangs = format!("@if({}isset($portClaims['a'])) @endif", "!".repeat(1_000_000));
    assert_eq!(render(&bangs, &[("a", 1)]).as_deref(), Ok(""));
}

/// Pieces of templates, so that what is put together of them often means something.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("{{ $portClaims['a'] }}"),
        Just("{{ $portClaims['b'] ?? 7 }}"),
        Just("{{"),
        Just("}}"),
        Just("{{-- "),
        Just("--}}"),
        Just("@if(isset($portClaims['a']))"),
        Just("@elseif(!isset($portClaims['b']))"),
        Just("@isset($portClaims['b'])"),
        Just("@else"),
        Just("@endif"),
        Just("@endisset"),
        Just("@verbatim"),
        Just("@endverbatim"),
        Just("@"),
        Just("$portClaims"),
        Just("("),
        Just(")"),
        Just("\n"),
        Just("\r\n"),
        Just(" "),
        Just("ü"),
        Just("{%"),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn nothing_is_done_to_text(text in "[^@{$\0]*") {
        prop_assert_eq!(render(&text, &[]), Ok(text));
    }

    #[test]
    fn verbatim_keeps_everything(text in pieces()) {
        prop_assume!(!text.contains("@endverbatim"));
        let template = format!("<@verbatim {text} @endverbatim>");
        prop_assert_eq!(render(&template, &[]), Ok(format!("< {text} >")));
    }

    #[test]
    fn a_template_that_is_taken_renders_once_its_claims_are_set(text in pieces()) {
        let Ok(template) = Template::parse(FILE, &text) else { return Ok(()) };
        let all = template.render(&ports(&[("a", 1), ("b", 2)]));
        prop_assert!(all.is_ok(), "{all:?}");
        let none = template.render(&BTreeMap::new());
        prop_assert!(matches!(none, Ok(_) | Err(TemplateError::NotSet { .. })), "{none:?}");
    }
}
