//! Replaces names: of the host, devices, tables, chains and sets.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use super::Redactor;
use crate::capture::path_part;
use crate::facts::netfilter::signatures;

/// What a component of a request name is the name of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum NamePart {
    Table,
    Chain,
    Set,
}

/// Prefixes of device names made from hardware addresses, by systemd and others.
const BY_ADDRESS: [&[u8]; 3] = [b"enx", b"wlx", b"wwx"];

/// Shorter host names occur as parts of other words.
const SHORTEST_HOST: usize = 4;

impl Redactor {
    /// Redacts a text from the kernel. The host's name becomes another word of equal length, and so do hardware
    /// addresses in device names anywhere in it, since in a set's key a device name may follow an address whose last
    /// byte is a letter. Common prefixes of device names are preserved.
    pub(super) fn name(&self, value: &mut [u8]) {
        let short = self.host.split('.').next().unwrap_or_default();
        for host in [self.host.as_bytes(), short.as_bytes()].into_iter().filter(|host| host.len() >= SHORTEST_HOST) {
            for at in 0..value.len() {
                if let Some(place) = value.get_mut(at..at + host.len()).filter(|place| *place == host) {
                    place.iter_mut().zip(b"redacted".iter().cycle()).for_each(|(place, letter)| *place = *letter);
                }
            }
        }
        for at in 0..value.len() {
            if BY_ADDRESS.iter().any(|start| value[at..].starts_with(start)) {
                let digits = value[at + 3..].iter().take_while(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
                let end = at + 3 + digits.count().min(12);
                self.digits(&mut value[at + 3..end]);
            }
        }
    }

    /// Replaces leading digits of a hardware address.
    fn digits(&self, digits: &mut [u8]) {
        let number = |digit: &u8| char::from(*digit).to_digit(16).unwrap_or(0) as u8;
        let mut address = [0; 6];
        for (byte, pair) in address.iter_mut().zip(digits.chunks(2)) {
            *byte = number(&pair[0]) << 4 | pair.get(1).map_or(0, number);
        }
        match u8::try_from(4 * digits.len()) {
            Ok(prefix @ ..48) => self.hardware_prefix(&mut address, prefix),
            _ => self.hardware(&mut address),
        }
        for (at, digit) in digits.iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[usize::from(address[at / 2] >> if at % 2 == 0 { 4 } else { 0 } & 0xf)];
        }
    }

    /// Redacts the name of an existing device.
    pub(super) fn device_name(&mut self, value: &mut [u8]) {
        let old = value.to_vec();
        self.name(value);
        if old != value {
            self.renamed.push((old, value.to_vec()));
        }
    }

    /// Replaces device names in bytes. New names have the old length, so framing is unaffected.
    pub(super) fn devices_renamed(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        for (old, new) in &self.renamed {
            for at in 0..(bytes.len() + 1).saturating_sub(old.len()) {
                if let Some(place) = bytes.get_mut(at..at + old.len()).filter(|place| *place == old) {
                    place.copy_from_slice(new);
                }
            }
        }
        bytes
    }

    /// Redacts a text for people.
    pub(super) fn text(&self, text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        self.name(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Redacts a table name, except what identifies its writer.
    pub(super) fn table_name(&mut self, value: &mut [u8]) {
        self.named(NamePart::Table, value, |redactor, name| {
            let free = signatures::free_parts_of_table(name);
            redactor.parts(name, free);
        });
    }

    /// Redacts a chain name, except what identifies its writer. netavark names chains after networks:
    /// `nv_10_88_0_0_nm16`.
    pub(super) fn chain_name(&mut self, value: &mut [u8]) {
        self.named(NamePart::Chain, value, |redactor, name| {
            let end = name.windows(3).rposition(|window| window == b"_nm");
            match end.filter(|end| name.starts_with(b"nv_") && *end > 3) {
                Some(end) => redactor.letters(name, 3..end),
                None => {
                    let free = signatures::free_parts_of_chain(name);
                    redactor.parts(name, free);
                }
            }
        });
    }

    /// Redacts these parts of a chain's or table's name; the others identify the writer.
    fn parts(&mut self, name: &mut [u8], free: Vec<Range<usize>>) {
        for part in free {
            self.name(&mut name[part.clone()]);
            self.addresses_in(&mut name[part]);
        }
    }

    /// Replaces addresses in a name, since firewalls name chains and tables after networks.
    fn addresses_in(&mut self, name: &mut [u8]) {
        while let Some(address) = address_in(name) {
            self.letters(name, address);
        }
    }

    /// Redacts a set name, except what identifies its writer.
    pub(super) fn set_name(&mut self, value: &mut [u8]) {
        self.named(NamePart::Set, value, |redactor, name| {
            if ![b"__set".as_slice(), b"__map"].iter().any(|start| name.starts_with(start)) {
                for part in signatures::free_parts_of_ipset(name) {
                    redactor.letters(name, part);
                }
            }
        });
    }

    /// Changes a name, up to its zero, and records the change for request names.
    fn named(&mut self, what: NamePart, value: &mut [u8], change: impl FnOnce(&mut Self, &mut [u8])) {
        let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
        let (name, rest) = value.split_at_mut(end);
        rest.fill(0);
        let old = path_part(name);
        change(self, name);
        self.paths.insert((what, old), path_part(name));
    }

    /// Replaces part of a name by letters: the same ones for the same name, different ones for different names.
    fn letters(&mut self, value: &mut [u8], part: Range<usize>) {
        let old = value.to_vec();
        let new = match self.names.get(&old) {
            Some(new) => new.clone(),
            None => {
                let candidate = |attempt: u32| {
                    let mut new = old.clone();
                    for at in part.clone() {
                        new[at] = b'a' + (self.hash((&old, attempt, at)) % 26) as u8;
                    }
                    new
                };
                let free = |new: &Vec<u8>| !self.taken.contains(new);
                // All short names are in use, so they reveal nothing.
                let new = (0..256).map(candidate).find(free).unwrap_or_else(|| old.clone());
                self.taken.insert(new.clone());
                self.names.insert(old.clone(), new.clone());
                new
            }
        };
        value[..new.len()].copy_from_slice(&new);
    }

    /// Redacts names in a request name.
    pub(super) fn request_name(&mut self, name: &str) -> String {
        let mut parts: Vec<String> = name.split('/').map(str::to_owned).collect();
        match &mut parts[..] {
            [_, netfilter, attempt, what, _, table, last @ ..]
                if netfilter == "netfilter" && attempt.starts_with("nft-") =>
            {
                *table = self.path(NamePart::Table, table);
                let what = if what == "map" { NamePart::Set } else { NamePart::Chain };
                last.iter_mut().for_each(|last| *last = self.path(what, last));
                parts.join("/")
            }
            _ => self.text(name),
        }
    }

    /// The new component of a request name, if the name occurs in a response; a long one is cut.
    fn path(&mut self, what: NamePart, path: &str) -> String {
        if let Some(known) = self.paths.get(&(what, path.to_owned())) {
            return known.clone();
        }
        let mut name = unescape(path);
        match what {
            NamePart::Table => self.table_name(&mut name),
            NamePart::Chain => self.chain_name(&mut name),
            NamePart::Set => self.set_name(&mut name),
        }
        path_part(&name)
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let code = after.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = code.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    bytes
}

/// Position of an address in a name; IPv4 also with `-` or `_` in place of dots.
fn address_in(name: &[u8]) -> Option<Range<usize>> {
    /// `ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255`, and `::`
    const LENGTHS: Range<usize> = 2..46;
    let of_one = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.' | b'-' | b'_');
    let is_cut = |at: usize, is_digit: fn(&u8) -> bool| {
        at > 0 && at < name.len() && is_digit(&name[at - 1]) && is_digit(&name[at])
    };
    for begin in (0..name.len()).filter(|at| of_one(&name[*at])) {
        let longest = name[begin..].iter().take_while(|byte| of_one(byte)).take(LENGTHS.end).count();
        let separators = |separator: u8| name[begin..begin + longest].iter().filter(|byte| **byte == separator).count();
        if separators(b':') < 2 && ![b'.', b'-', b'_'].iter().any(|separator| separators(*separator) >= 3) {
            continue; // just a word; a node has tens of thousands of names
        }
        for end in (begin + LENGTHS.start..=begin + longest).rev() {
            let Ok(text) = std::str::from_utf8(&name[begin..end]) else { continue };
            let dotted = |separator: char| text.replace(separator, ".").parse::<Ipv4Addr>().is_ok();
            let is_digit = match (text.parse::<Ipv6Addr>(), ['.', '-', '_'].into_iter().any(dotted)) {
                (Ok(_), _) => u8::is_ascii_alphanumeric,
                (_, true) => u8::is_ascii_digit,
                _ => continue,
            };
            if !is_cut(begin, is_digit) && !is_cut(end, is_digit) {
                return Some(begin..end);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;

    use super::*;

    fn redactor() -> Redactor {
        Redactor::new(RandomState::new(), "SecretHost.example.com".into())
    }

    #[test]
    fn devices_keep_what_their_names_begin_with() {
        let redactor = redactor();
        let long = redactor.text("enx02deadbeef77");
        let mut address = [0x02, 0xde, 0xad, 0xbe, 0xef, 0x77];
        redactor.hardware(&mut address);
        let digits: String = address.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(long, format!("enx{digits}"));
        assert_ne!(long, "enx02deadbeef77");
        for length in 3..=long.len() {
            assert_eq!(redactor.text(&"enx02deadbeef77"[..length]), &long[..length]);
        }
        let list = redactor.text("sysfs/class/net/wlx02deadbeef77/ifindex wwx02deadbeef77\0");
        assert_eq!(list, format!("sysfs/class/net/wlx{digits}/ifindex wwx{digits}\0"));
        let mut key = *b"\xcb\x00\x71Qwlx02deadbeef77\0";
        redactor.name(&mut key);
        assert_eq!(key[4..], *format!("wlx{digits}\0").as_bytes());
        for same in ["enx", "eth0", "enxyz", "docker0", ""] {
            assert_eq!(redactor.text(same), same);
        }
    }

    #[test]
    fn the_host_goes_from_names_and_their_length_stays() {
        let mut redactor = redactor();
        assert_eq!(redactor.text("v-SecretHost"), "v-redactedre");
        assert_eq!(redactor.text("5.4.0-SecretHost.example.com"), "5.4.0-redactedredactedredact");
        for (old, new) in [("SecretHost", "redactedre"), ("kube-proxy", "kube-proxy")] {
            let mut name = format!("{old}\0").into_bytes();
            redactor.table_name(&mut name);
            assert_eq!(name, format!("{new}\0").into_bytes());
        }
        let mut name = b"KUBE-SecretHost-x\0".to_vec();
        redactor.chain_name(&mut name);
        assert_eq!(name, b"KUBE-redactedre-x\0");
        let request =
            |redactor: &mut Redactor, name: &str| redactor.request_name(&format!("netlink/netfilter/nft-7/{name}"));
        assert_eq!(
            request(&mut redactor, "rules/ipv4/SecretHost/KUBE-SecretHost-x"),
            "netlink/netfilter/nft-7/rules/ipv4/redactedre/KUBE-redactedre-x"
        );
        assert_eq!(
            redactor.request_name("netlink/ethtool/features-v-SecretHost"),
            "netlink/ethtool/features-v-redactedre"
        );
    }

    /// In a name that identifies the owner of a rule only the variable part is replaced.
    #[test]
    fn what_tells_the_writer_stays() {
        let redacted = |host: &str, change: fn(&mut Redactor, &mut [u8]), name: &str| {
            let mut bytes = name.as_bytes().to_vec();
            change(&mut Redactor::new(RandomState::new(), host.into()), &mut bytes);
            String::from_utf8(bytes).unwrap()
        };
        for (host, name, new) in [
            ("allow", "POST_allow_allow", "POST_redac_allow"),
            ("SecretHost", "pstrt.SecretHost", "pstrt.redactedre"),
            ("KUBE", "KUBE-POSTROUTING", "KUBE-POSTROUTING"),
            ("KUBE", "KUBE-POSTROUTING-CUSTOM", "reda-POSTROUTING-CUSTOM"),
            ("0b9a", "CNI-0b9a2c0f2ea8f8bb2b8b6d1f", "CNI-0b9a2c0f2ea8f8bb2b8b6d1f"),
        ] {
            assert_eq!(redacted(host, Redactor::chain_name, name), new);
        }
        assert_eq!(redacted("shared", Redactor::table_name, "nm-shared-shared"), "nm-shared-redact");
        assert_eq!(redacted("netavark", Redactor::table_name, "netavark"), "netavark");
    }

    #[test]
    fn long_names_are_requested_by_their_new_ones() {
        let mut redactor = redactor();
        let old = [b"secret".as_slice(), &[b'm'; 120]].concat();
        let request = |name: &[u8]| format!("netlink/netfilter/nft-7/map/ipv4/t/{}", path_part(name));
        let mut new = old.clone();
        redactor.set_name(&mut new);
        assert_ne!(old, new);
        assert_eq!(redactor.request_name(&request(&old)), request(&new));
    }

    #[test]
    fn addresses_go_from_names_of_chains_and_tables() {
        for (name, kept) in [
            ("FW-203.0.113.11", "FW-"),
            ("FW_203_0_113_11_out", "FW_"),
            ("fw-203-0-113-11", "fw-"),
            ("to:2001:db8:feed::77", "to:"),
            ("2001:db8:feed::77", ""),
            ("in203.0.113.11", "in"),
            ("KUBE-SVC-1234567890ABCDEF", "KUBE-SVC-1234567890ABCDEF"),
            ("version-1.2.3", "version-1.2.3"),
            ("f2b-sshd", "f2b-sshd"),
        ] {
            let mut new = name.as_bytes().to_vec();
            redactor().chain_name(&mut new);
            let new = String::from_utf8(new).unwrap();
            assert!(new.starts_with(kept) && new.len() == name.len(), "{name}: {new}");
            assert_eq!(new == name, kept == name, "{name}: {new}");
            assert!(!new.contains("113") && !new.contains("feed") || kept == name, "{name}: {new}");
        }
        let mut redactor = redactor();
        let mut twice = [b"FW-203.0.113.11".to_vec(), b"FW-203.0.113.11".to_vec(), b"FW-203.0.113.12".to_vec()];
        twice.iter_mut().for_each(|name| redactor.table_name(name));
        assert!(twice[0] == twice[1] && twice[1] != twice[2]);
    }
}
