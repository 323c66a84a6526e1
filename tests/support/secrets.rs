//! Private data of the rules a redacted capture was taken from, and a search for them in it.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::capture::walk;

/// A text to search for, in all forms in which it may appear.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Secret {
    /// How people write it.
    pub text: String,
    forms: Vec<Vec<u8>>,
}

impl Secret {
    /// A name, a comment, a prefix.
    fn text(text: &str) -> Self {
        Self { text: text.to_owned(), forms: vec![text.as_bytes().to_vec()] }
    }

    /// An address or its first bytes: in both byte orders, in hexadecimal, and as people write it.
    fn bytes(text: &str, bytes: &[u8]) -> Self {
        let hexadecimal = |bytes: &[u8], between: &str| {
            bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(between)
        };
        let reversed: Vec<u8> = bytes.iter().rev().copied().collect();
        // Files of /proc print each of the four words of an IPv6 address in the CPU's byte order.
        let words: Vec<u8> = bytes.chunks_exact(4).flat_map(|word| word.iter().rev().copied()).collect();
        let mut forms = vec![text.as_bytes().to_vec()];
        for bytes in [bytes, &reversed, &words].into_iter().filter(|bytes| bytes.len() >= 3) {
            forms.push(bytes.to_vec());
            for between in ["", ":"] {
                let text = hexadecimal(bytes, between);
                forms.push(text.to_uppercase().into_bytes());
                forms.push(text.into_bytes());
            }
        }
        Self { text: text.to_owned(), forms }
    }

    fn is_in(&self, bytes: &[u8], triples: &Triples) -> bool {
        let holds = |form: &[u8]| bytes.windows(form.len()).any(|window| window == form);
        self.forms.iter().any(|form| triples.holds(form) && holds(form))
    }
}

/// Which sequences of three bytes occur in a file: most secrets are quickly known to be absent.
struct Triples(Vec<bool>);

impl Triples {
    fn of(bytes: &[u8]) -> Self {
        let mut triples = Self(vec![false; 1 << 24]);
        bytes.windows(3).for_each(|window| triples.0[Self::number(window)] = true);
        triples
    }

    fn number(bytes: &[u8]) -> usize {
        usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2])
    }

    /// Whether a text that begins like this may occur.
    fn holds(&self, form: &[u8]) -> bool {
        self.0[Self::number(form)]
    }
}

/// What the files of `tests/rules/every` are made of: see their README.md.
pub fn of_every() -> Vec<Secret> {
    let addresses = [
        Secret::bytes("203.0.113.", &[203, 0, 113]),
        Secret::bytes("198.51.100.", &[198, 51, 100]),
        Secret::bytes("2001:db8:feed", &[0x20, 0x01, 0x0d, 0xb8, 0xfe, 0xed]),
        Secret::bytes("02:5e:c4:e7:00", &[0x02, 0x5e, 0xc4, 0xe7, 0x00]),
        // The last bytes of an address, which is all that a rule may test.
        Secret::bytes("dead:72", &[0xde, 0xad, 0x72]),
    ];
    // Names of tables and chains are kept, and begin differently.
    const WORDS: &[&str] = &[
        "SecretAk",
        "secret comment",
        "secret prefix",
        "secret string",
        "secretset",
        "secretmap",
        "secretcounter",
        "secretquota",
        "secretlimit",
        "secretsynproxy",
        "secrethelper",
        "secrettimeout",
        "secretexpectation",
        "secrethash",
        "secretrecent",
        "secretrate",
        "secretlabel",
        "secretacct",
    ];
    addresses.into_iter().chain(WORDS.iter().map(|word| Secret::text(word))).collect()
}

const BETWEEN_WORDS: [char; 7] = [' ', '\t', ',', '{', '}', ';', '"'];

/// The secrets in the text of any rule file: addresses, names of sets, and names within comments.
pub fn of_rules(text: &str) -> Vec<Secret> {
    let lines = || text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let words: Vec<&str> = lines().flat_map(|line| line.split(BETWEEN_WORDS)).collect();
    let mut secrets: BTreeSet<Secret> = words.iter().filter_map(|word| address(word)).collect();
    // kube-proxy writes a Service's namespace and name into comments.
    let commented = lines().filter_map(|line| line.split_once("comment ").map(|(_, comment)| comment));
    let services = commented.flat_map(|line| line.split(BETWEEN_WORDS)).filter(|word| word.contains('/'));
    secrets.extend(services.filter(|word| word.contains(':')).map(Secret::text));
    let named = |before: &[&str]| {
        let pairs = words.windows(2).filter(|pair| before.contains(&pair[0]));
        pairs.map(|pair| pair[1]).filter(|name| name.len() >= 6 && !name.starts_with('-')).collect::<BTreeSet<_>>()
    };
    // A name that is both a set's and a chain's is kept.
    let chains = named(&["chain", "jump", "goto", "-j", "-g", "table", "ip", "ip6", "inet"]);
    let sets = named(&["set", "map", "--match-set", "create"]);
    // This set's name identifies the owner of rules that look it up (docs/owners.md), and nothing else.
    const TELLING: &str = "kube-router-pod-subnets";
    secrets.extend(sets.difference(&chains).filter(|name| **name != TELLING).map(|name| Secret::text(name)));
    secrets.into_iter().collect()
}

/// `10.1.2.0/24`, `10.1.2.3:80`, `10.1.2.1-10.1.2.9`, `[fd00::1]:80`, if no other number looks like it and redaction
/// changes enough of it: it keeps the bits that tell the kind of address.
fn address(word: &str) -> Option<Secret> {
    let word = word.split('-').next().unwrap_or_default();
    let (word, length) = match word.split_once('/') {
        Some((word, length)) => (word, length.parse::<u32>().ok()?),
        None => (word, 128),
    };
    let word = match word.strip_prefix('[') {
        Some(word) => word.split(']').next()?,
        None if word.contains('.') => word.split(':').next()?,
        None => word,
    };
    match word.parse::<IpAddr>().ok()? {
        IpAddr::V4(address) => {
            let bytes = &address.octets()[..(length.min(32) / 8) as usize];
            let telling = bytes.iter().filter(|byte| **byte != 0).count() >= 3;
            (telling && !is_special(address)).then(|| Secret::bytes(&address.to_string(), bytes))
        }
        IpAddr::V6(address) => {
            let bytes = &address.octets()[..(length / 8) as usize];
            let telling = bytes.iter().skip(2).filter(|byte| **byte != 0).count() >= 2;
            (telling && !is_special6(address)).then(|| Secret::bytes(&address.to_string(), bytes))
        }
    }
}

fn is_special(address: Ipv4Addr) -> bool {
    address.is_loopback() || address.is_multicast() || address.octets()[0] >= 224 || address.octets()[0] == 0
}

fn is_special6(address: Ipv6Addr) -> bool {
    address.is_loopback() || address.is_unspecified() || address.is_multicast()
}

/// Secret and file for each secret that occurs in a file below a directory, or in its name. The generation's directory,
/// which differs in each capture, is left out of the name.
pub fn found(root: &Path, secrets: &[Secret]) -> BTreeSet<(String, String)> {
    let mut files = Vec::new();
    walk(root, &mut files);
    let mut found = BTreeSet::new();
    for path in files {
        let name = path.strip_prefix(root).expect("below").to_str().expect("UTF-8");
        let bytes = [name.as_bytes(), &[0], &fs::read(&path).expect("a file")].concat();
        let triples = Triples::of(&bytes);
        for secret in secrets.iter().filter(|secret| secret.is_in(&bytes, &triples)) {
            found.insert((secret.text.clone(), without_generation(name)));
        }
    }
    found
}

/// `netlink/netfilter/nft-7/tables` becomes `netlink/netfilter/nft/tables`.
fn without_generation(name: &str) -> String {
    let part = |part: &str| match part.strip_prefix("nft-") {
        Some(number) if number.bytes().all(|byte| byte.is_ascii_digit()) => "nft".to_owned(),
        _ => part.to_owned(),
    };
    name.split('/').map(part).collect::<Vec<_>>().join("/")
}
