//! The page of the registry, in a browser.

mod driver;
mod screenshot;

use std::fs;

use libtest_mimic::Trial;
use portclaim::lease::Protocol;
use serde_json::json;

use crate::{
    chain::{Container, annotated},
    instance,
    node::Node,
    recovery::{fixed, network},
    registry::{Server, request},
    see::fixture::{self, Site},
    traffic::Echo,
};
use driver::{Browser, ENTER, Element, TAB};

/// How many rows of ports are shown.
const ROWS: &str = "document.querySelectorAll('#ports tbody tr').length";
/// What those who cannot see the page are told.
const STATUS: &str = "document.querySelector('[role=status]').textContent";

/// A pod on paper.
fn pod(name: &str, number: u16) -> Container {
    Container::on_paper(name, number).in_pod("shop", name, "1")
}

fn row(port: u16) -> String {
    format!("document.getElementById('{port}/tcp')")
}

/// What comes and goes is seen without a reload, and whoever is at work on the page is
/// not disturbed.
fn pods_come_and_go() {
    let node = Node::new(false);
    fixture::fill(&node, 200);
    let server = Server::start(&node, "127.0.0.1", &[]);
    let browser = Browser::start(&node.host);
    browser.open(&server.url("/"));
    browser.until(&format!("{STATUS} === 'Live' && {ROWS} === 100"));
    browser.value("window.marker = true");

    // Somebody types, and has gone back to the second letter.
    browser.value("document.querySelector('[name=q]').focus()");
    browser.press("web");
    browser.until("location.search === '?q=web'");
    browser.value("document.activeElement.setSelectionRange(1, 2)");
    let (first, second) = (pod("web-new", 2), pod("web-next", 3));
    network().add(&node, &first, fixed(9000)).run(&node).succeeded();
    browser.until(&format!("{}?.innerText.includes('shop/web-new')", row(9000)));
    browser.until(&format!("{STATUS}.endsWith(':9000 tcp added')"));
    assert_eq!(
        browser.value(
            "(({name, value, selectionStart, selectionEnd}) =>
                [name, value, selectionStart, selectionEnd])(document.activeElement)"
        ),
        json!(["q", "web", 1, 2])
    );
    browser.press("wx");
    browser.until(&format!("location.search === '?q=wwxb' && {ROWS} === 0"));
    browser.open(&server.url("/"));
    browser.until(&format!("{STATUS} === 'Live' && {ROWS} === 100"));
    browser.value("window.marker = true");

    // Somebody has scrolled to a link, and is about to follow it.
    browser
        .value("(window.chosen = document.getElementById('10050/tcp').querySelector('a')).focus()");
    browser.value("chosen.scrollIntoView()");
    let top = || browser.value("Math.round(chosen.getBoundingClientRect().top)");
    let before = top();
    network().add(&node, &second, fixed(9001)).run(&node).succeeded();
    browser.until(&format!("{} !== null", row(9001)));
    network().del(&node, &first).run(&node).succeeded();
    browser.until(&format!("{} === null", row(9000)));
    assert_eq!(top(), before, "the row stays where it is");
    assert_eq!(browser.value("document.activeElement === chosen"), true);
    // What one is at goes away: the focus stays near.
    let link = format!("{}.querySelector('a')", row(9001));
    browser.value(&format!("{link}.focus()"));
    network().del(&node, &second).run(&node).succeeded();
    browser.until(&format!("{} === null", row(9001)));
    assert_eq!(browser.text("document.activeElement.id"), "content");
    assert_eq!(browser.value("window.marker"), true, "it was not loaded anew");
    assert_eq!(browser.complaints(), [""; 0]);
}

/// Who registers itself is there, with whether it works, and what it says of itself is
/// text.
fn instances_are_healthy_or_not() {
    let site = instance::Site::new(&instance::QUICK);
    let server = site.start();
    let browser = Browser::start(&site.node.host);
    browser.open(&server.url("/"));
    browser.until(&format!("{STATUS} === 'Live'"));
    browser.value("window.marker = true");
    let works = Echo::start(&site.node.host, Protocol::Tcp, 7001, "works");
    let tags = "&tags=http,%3Cimg/src=x/onerror=alert(1)%3E";
    site.as_root(&instance::form("web", "127.0.0.1:7001", tags));
    let row = "document.getElementById('instance/web')";
    let health = format!("{row}?.querySelector('[data-label=Health]').innerText");
    browser.until(&format!("{health} === 'healthy'"));
    assert!(browser.text(&format!("{row}.innerText")).contains("<img/src=x/onerror=alert(1)>"));
    assert_eq!(browser.text(&format!("{row}.querySelector('a').href")), "http://127.0.0.1:7001/");
    drop(works);
    browser.until(&format!("{health} === 'unhealthy: connection refused'"));
    browser.until(&format!("{STATUS}.endsWith('127.0.0.1:7001 tcp unhealthy')"));
    site.as_root(&request("DELETE", "/v1/instances/web", &[], ""));
    browser.until(&format!("{row} === null && {STATUS}.endsWith('7001 tcp removed')"));
    assert_eq!(browser.value("window.marker"), true, "it was not loaded anew");
    assert_eq!(browser.complaints(), [""; 0]);
}

/// The page is read while the server is away, and follows the next one.
fn the_server_comes_back() {
    let node = Node::new(false);
    let server = Server::start(&node, "127.0.0.1", &[]);
    let listen = server.url("").trim_start_matches("http://").to_owned();
    let browser = Browser::start(&node.host);
    browser.open(&server.url("/"));
    browser.until(&format!("{STATUS} === 'Live'"));
    drop(server);
    browser.until(&format!("{STATUS} === 'Not connected'"));
    network().add(&node, &pod("web", 2), fixed(9000)).run(&node).succeeded();
    let arguments = ["serve", "--listen", &listen];
    let _server = Server::spawn(&node, &mut crate::tool::command(&node, &network(), &arguments));
    browser.until(&format!("{} !== null && {STATUS} === 'Live'", row(9000)));
}

/// Where the focus is, and what is seen of it.
fn focused(browser: &Browser<'_>) -> String {
    let seen = "(() => {
        const it = document.activeElement, style = getComputedStyle(it);
        const box = it.getBoundingClientRect();
        return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2
            && box.width > 8 && box.height > 8 && box.bottom > 0 && box.top < innerHeight;
    })()";
    let name = browser.text(
        "document.activeElement.name || document.activeElement.ariaLabel ||
            document.activeElement.textContent",
    );
    assert_eq!(browser.value(seen), true, "the focus is seen on {name}");
    name
}

/// Goes on with the tabulator until the focus is on something with this name, and says
/// what was on the way.
fn tab_to(browser: &Browser<'_>, name: &str) -> Vec<String> {
    let mut way = Vec::new();
    while way.last().is_none_or(|last| last != name) {
        assert!(way.len() < 200, "{name} is not on the way: {way:?}");
        browser.press(&TAB.to_string());
        way.push(focused(browser));
    }
    way
}

fn addresses(browser: &Browser<'_>) -> Vec<String> {
    let found = browser.value("[...document.querySelectorAll('#ports tbody tr')].map(it => it.id)");
    found.as_array().unwrap().iter().map(|it| it.as_str().unwrap().to_owned()).collect()
}

/// Filters and sorts with nothing but the keyboard.
fn a_keyboard_is_enough() {
    let site = Site::with_everything();
    let mut command = site.node.command(std::path::Path::new(fixture::CTL));
    command.args(["serve", "--listen", "127.0.0.1:0"]).args(site.options());
    let server = Server::spawn(&site.node, &mut command);
    let browser = Browser::start(&site.node.host);
    browser.open(&server.url("/"));
    browser.until(&format!("{STATUS} === 'Live'"));
    let all = addresses(&browser);

    // All that there is to use comes in the order in which it stands.
    let way = tab_to(&browser, "Claims");
    let fields =
        ["Skip to the ports", "q", "namespace", "group", "protocol", "port", "health", "Show"];
    assert_eq!(way[..8], fields, "{way:?}");
    let heads =
        ["Host ports", "Name", "Address", "Protocol", "Pod or service", "Group", "Age", "Health"];
    assert_eq!(way[8..16], heads, "{way:?}");
    assert_eq!(way[way.len() - 2..], ["Groups", "Claims"], "{way:?}");

    browser.open(&server.url("/"));
    tab_to(&browser, "Skip to the ports");
    browser.press(&ENTER.to_string());
    assert_eq!(browser.text("document.activeElement.id"), "content");

    browser.open(&server.url("/"));
    tab_to(&browser, "q");
    browser.press("arena");
    browser.until(&format!("{ROWS} === 3 && {STATUS} === '1–3 of 3'"));
    tab_to(&browser, "Address");
    let order = "document.activeElement.closest('th').getAttribute('aria-sort')";
    assert_eq!(browser.text(order), "ascending");
    browser.press(&ENTER.to_string());
    browser.until(&format!("{order} === 'descending'"));
    assert_eq!(focused(&browser), "Address", "it can be turned again at once");
    assert_eq!(addresses(&browser), ["7002/udp", "7000/udp", "7000/tcp"]);
    assert_eq!(
        browser.value("document.querySelectorAll('[aria-sort]').length"),
        1,
        "one order at a time"
    );
    assert!(browser.url().ends_with("/?q=arena&sort=-port"), "{}", browser.url());
    tab_to(&browser, "Protocol");
    browser.press(&ENTER.to_string());
    browser.until(&format!("{order} === 'ascending'"));
    assert_eq!(addresses(&browser), ["7000/tcp", "7000/udp", "7002/udp"]);
    // A filter keeps the order, and the way back leads through both.
    browser.value("history.back()");
    browser.until(&format!(
        "location.search === '?q=arena&sort=-port' && {}[0] === '7002/udp'",
        "[...document.querySelectorAll('#ports tbody tr')].map(it => it.id)"
    ));
    browser.value("document.querySelector('[name=q]').select()");
    browser.value("document.querySelector('[name=q]').focus()");
    browser.press("nobody has this");
    browser.until(&format!("{ROWS} === 0 && {STATUS}.startsWith('Nothing is held')"));
    tab_to(&browser, "Show all");
    browser.press(&ENTER.to_string());
    browser.until("location.search === '' && document.querySelector('[name=q]').value === ''");
    browser.until(&format!("{ROWS} === {}", all.len()));
    // What is no port is said, and read out.
    tab_to(&browser, "Claims");
    browser.value("document.querySelector('[name=port]').focus()");
    browser.press("x");
    browser.until("document.querySelector('[role=alert]')?.textContent.startsWith('port is')");
    assert_eq!(browser.complaints(), [""; 0]);
}

/// The same without scripts: the form and the links do it.
fn no_scripts_are_needed() {
    let node = Node::new(false);
    fixture::fill(&node, 300);
    let server = Server::start(&node, "127.0.0.1", &[]);
    let browser = Browser::start(&node.host);
    browser.disable_scripts();
    browser.open(&server.url("/"));
    assert_eq!(browser.text(STATUS), "", "no script has run");
    let loaded = |search: &str| {
        browser.until(&format!(
            "document.readyState === 'complete' && location.search.includes('{search}')"
        ));
        addresses(&browser)
    };
    browser.click(&browser.find("[rel=next]"));
    assert_eq!(loaded("offset=100")[0], "10100/tcp");
    browser.click(&browser.find("thead th:nth-child(2) a"));
    assert_eq!(loaded("sort=-port")[0], "10299/tcp");
    browser.value("document.querySelector('[name=q]').focus()");
    browser.press("team-3");
    browser.press(&ENTER.to_string());
    let found = loaded("q=team-3");
    assert_eq!((found.len(), found[0].as_str()), (20, "10239/tcp"), "the order is kept");
    assert_eq!(browser.text("document.querySelector('[name=q]').value"), "team-3");
    assert_eq!(browser.text(STATUS), "", "no script has run");
}

fn ten_thousand_ports() {
    let node = Node::new(false);
    fixture::fill(&node, 10_000);
    let server = Server::start(&node, "127.0.0.1", &[]);
    let browser = Browser::start(&node.host);
    browser.open(&server.url("/"));
    browser.until(&format!("{STATUS} === 'Live'"));
    let pages = |text: &str| {
        browser.until(&format!(
            "document.querySelector('#pages span').textContent === '{text} of 10000'"
        ));
    };
    pages("1–100");
    browser.click(&browser.find("[rel=next]"));
    pages("101–200");
    assert_eq!(addresses(&browser)[0], "10100/tcp");
    browser.until("document.querySelector('#ports thead').getBoundingClientRect().top > -1");
    browser.value("history.back()");
    pages("1–100");
    browser.click(&browser.find("#pages a:last-of-type"));
    pages("1–10000");
    assert_eq!(browser.value(ROWS), 10_000);
    // What comes is in it too, and what is typed finds among all of them.
    network().add(&node, &pod("web-new", 2), fixed(9000)).run(&node).succeeded();
    browser.until(&format!("{} !== null", row(9000)));
    browser.value("document.querySelector('[name=q]').focus()");
    browser.press("web-999");
    browser.until(&format!("{ROWS} === 10"));
    assert_eq!(addresses(&browser)[9], "19999/tcp");
    assert_eq!(browser.complaints(), [""; 0]);
}

const MARKUP: &str = "<img src=x onerror=alert(1)><script>alert(2)</script>";

/// Whatever others can write into what is shown is shown as they wrote it.
fn markup_is_text() {
    let node = Node::new(false);
    // Whoever has a name that is none is known by the container's ID; whoever asks in
    // such words is refused.
    let evil = Container::on_paper("evil", 2).in_pod("shop", MARKUP, "1");
    network().add(&node, &evil, fixed(9000)).run(&node).succeeded();
    let asks = annotated(&[("ports", &format!("{MARKUP}=80"))]);
    network().add_with(&node, &pod("asks", 5), asks).run(&node).failed_with(7);
    network().add(&node, &pod("web", 3), fixed(9001)).run(&node).succeeded();
    let server = Server::start(&node, "127.0.0.1", &["--external-address", MARKUP]);
    let browser = Browser::start(&node.host);
    let parameter = MARKUP.replace('<', "%3C").replace('>', "%3E").replace(' ', "%20");
    let breaks_out = format!("%22%3E{parameter}");
    for query in ["", "q=", "port=", "namespace=", "sort=", "limit="] {
        let value = if query.is_empty() { "" } else { &breaks_out };
        browser.open(&server.url(&format!("/?{query}{value}")));
        if query.is_empty() {
            assert!(browser.text("document.body.innerText").contains(MARKUP));
            browser.until(&format!("{STATUS} === 'Live'"));
        }
        assert_eq!(browser.dialog(), None, "{query}");
        assert_eq!(
            browser
                .value("document.querySelectorAll('img, script:not([src=\"/script.js\"])').length"),
            0,
            "{query}"
        );
        assert_eq!(browser.complaints(), [""; 0], "{query}");
    }
    // As events, and as what is typed.
    browser.open(&server.url("/"));
    browser.until(&format!("{STATUS} === 'Live'"));
    network().add(&node, &pod("web-2", 4), fixed(9002)).run(&node).succeeded();
    browser.until(&format!("{} !== null && {STATUS}.includes('onerror')", row(9002)));
    browser.value("document.querySelector('[name=port]').focus()");
    browser.press("<img src=x onerror=alert(1)>");
    browser.until("document.querySelector('.problem')?.textContent.includes('onerror=alert(1)')");
    assert_eq!((browser.dialog(), browser.complaints()), (None, Vec::new()));
    // What gets into the page all the same does not run, and that is reported.
    browser.value("document.getElementById('content').innerHTML = '<img src=x onerror=alert(1)>'");
    browser.until("document.querySelector('#content img').complete");
    let refused = browser.complaints();
    assert!(refused.iter().any(|it| it.contains("Content Security Policy")), "{refused:?}");
    assert_eq!(browser.dialog(), None);
}

/// Text whose contrast with what is behind it is too low (WCAG 2.2, 1.4.3 and, for the
/// edges of fields, 1.4.11).
const FAINT: &str = "(() => {
    const channels = (text) => text.match(/[\\d.]+/g).map(Number);
    const luminance = (colour) => {
        const [r, g, b] = channels(colour).map((it) => it / 255)
            .map((it) => it <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
        for (let it = element; it; it = it.parentElement) {
            const colour = getComputedStyle(it).backgroundColor;
            if ((channels(colour)[3] ?? 1) > 0) return colour;
        }
        throw new Error('nothing is behind');
    };
    const contrast = (one, other) => {
        const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
    };
    const faint = [];
    let seen = 0;
    for (const it of document.body.querySelectorAll('*')) {
        const own = [...it.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        const style = getComputedStyle(it);
        const check = (colour, back, least) => {
            seen++;
            const found = contrast(colour, back);
            if (found < least) faint.push(`${it.outerHTML.slice(0, 80)}: ${found}`);
        };
        if (own) check(style.color, behind(it), 4.5);
        if (it.matches('input:not([type=hidden]), button')) {
            check(style.borderTopColor, behind(it.parentElement), 3);
        }
    }
    if (seen < 40) faint.push(`only ${seen} were looked at`);
    return faint;
})()";

/// Light and dark, wide and on a phone.
fn everyone_can_read_it() {
    let site = Site::with_everything();
    fixture::everything_long(&fixture::store(&site.node));
    let mut command = site.node.command(std::path::Path::new(fixture::CTL));
    command.args(["serve", "--listen", "127.0.0.1:0"]).args(site.options());
    let server = Server::spawn(&site.node, &mut command);
    let browser = Browser::start(&site.node.host);
    let mut backgrounds = Vec::new();
    for (width, height) in [(1280, 900), (360, 740)] {
        browser.resize(width, height);
        for scheme in ["light", "dark"] {
            browser.prefer(scheme);
            browser.open(&server.url("/"));
            browser.until(&format!("{STATUS} === 'Live'"));
            assert_eq!(browser.value(FAINT), json!([]), "{width} {scheme}");
            backgrounds.push(browser.text("getComputedStyle(document.body).backgroundColor"));
            let wide =
                "document.documentElement.scrollWidth - document.documentElement.clientWidth";
            assert_eq!(browser.value(wide), 0, "{width}: nothing is beside the screen");
        }
        let seen = |element: &Element| browser.told(element);
        // The form of a list on a phone is still a table to those who hear it.
        let roles = |selector: &str| -> Vec<_> {
            browser.find_all(selector).iter().map(|it| seen(it).0).collect()
        };
        assert_eq!(roles("table"), ["table"; 3], "{width}");
        assert!(roles("#ports tbody tr").iter().all(|role| role == "row"), "{width}");
        let cells = roles("#ports tbody tr:first-child > :not(:empty)");
        assert_eq!(cells[..2], ["rowheader", "cell"], "{width}");
        assert_eq!(roles("#ports thead th")[..2], ["columnheader"; 2], "{width}");
        for selector in [
            "input:not([type=hidden])",
            "button",
            "a[href]",
            "table",
            "meter",
            "[role=region]",
            "nav",
            "[role=search]",
        ] {
            for element in browser.find_all(selector) {
                let (role, name) = seen(&element);
                assert!(!name.is_empty() && !role.is_empty(), "{width} {selector}: {role} {name}");
            }
        }
        // On a phone as well, the order can be changed.
        assert_eq!(browser.find_all("#ports thead a").len(), 7);
        browser.value("document.querySelector('#ports thead a').focus()");
        browser.value("document.querySelector('#ports thead a').scrollIntoView()");
        assert_eq!(focused(&browser), "Name", "{width}");
    }
    assert_eq!(backgrounds[0], backgrounds[2]);
    assert_eq!(backgrounds[1], backgrounds[3]);
    assert_ne!(backgrounds[0], backgrounds[1]);
    assert_eq!(browser.complaints(), [""; 0]);
}

/// A node without ports says how to get one; a database that cannot be read is told,
/// and what was read before stays.
fn nothing_and_nothing_to_read() {
    let node = Node::new(false);
    let server = Server::start(&node, "127.0.0.1", &[]);
    let browser = Browser::start(&node.host);
    browser.open(&server.url("/"));
    browser.until(&format!("{STATUS} === 'Live'"));
    let page = "document.getElementById('content').innerText";
    assert!(browser.text(page).contains("hostport.io/ports: web=8080"));
    browser.value("window.marker = true");
    network().add(&node, &pod("web", 2), fixed(9000)).run(&node).succeeded();
    browser.until(&format!("{} !== null", row(9000)));

    let current = node.data_dir().join("current");
    let generation = fs::read_link(&current).unwrap();
    for entry in fs::read_dir(node.data_dir()).unwrap() {
        let database = entry.unwrap().path().join("db");
        if database.exists() {
            fs::write(database, "damaged").unwrap();
        }
    }
    // As a commit does it.
    std::os::unix::fs::symlink(generation, node.data_dir().join("new")).unwrap();
    fs::rename(node.data_dir().join("new"), &current).unwrap();
    browser.until("document.querySelector('[role=alert]') !== null");
    assert!(browser.text(page).contains("The database could not be read"));
    assert_eq!(browser.value(&format!("{} !== null", row(9000))), true, "what was known stays");
    assert_eq!(browser.value("window.marker"), true, "it was not loaded anew");
    assert_eq!(browser.complaints(), [""; 0]);
}

pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 9] = [
        ("live", pods_come_and_go),
        ("health", instances_are_healthy_or_not),
        ("reconnect", the_server_comes_back),
        ("keyboard", a_keyboard_is_enough),
        ("no-scripts", no_scripts_are_needed),
        ("many", ten_thousand_ports),
        ("markup", markup_is_text),
        ("readable", everyone_can_read_it),
        ("states", nothing_and_nothing_to_read),
    ];
    let mut trials = crate::trials("browser", tests);
    trials.push(screenshot::trial());
    trials
}
