//! Tests on bytes captured from Linux 6.18; `tests/nodes/README.md` says how.

use std::sync::LazyLock;

use super::*;
use crate::capture::archive::testing::recorded_answer;
use crate::read::testing::answering;

static FAMILIES: LazyLock<&[u8]> = LazyLock::new(|| recorded_answer("flannel", "netlink/generic/families"));
static NAMES: LazyLock<&[u8]> = LazyLock::new(|| recorded_answer("flannel", "netlink/ethtool/feature-names"));
static TUNNEL: LazyLock<&[u8]> = LazyLock::new(|| recorded_answer("flannel", "netlink/ethtool/features-flannel.1"));
static OFF: LazyLock<&[u8]> = LazyLock::new(|| recorded_answer("vmxnet3-mitigated", "netlink/ethtool/features-eth0"));

/// Feature names and their bit numbers, decoded from this response.
fn names(bytes: &[u8]) -> Reading<BTreeMap<String, usize>> {
    answering(bytes, |node| node.try_answer(&names_request(20), decode_names))
}

fn families_of(bytes: &[u8]) -> Reading<Vec<u16>> {
    answering(bytes, |node| node.try_dump(&families(), decode_family))
}

fn features(bytes: &[u8], names: &BTreeMap<String, usize>) -> Reading<Features> {
    let ethtool = Ethtool { family: Reading::Ok(20), names: Reading::Ok(names.clone()) };
    answering(bytes, |node| super::features(&ethtool, node, &Link::new(1, "eth0")))
}

#[test]
fn the_family_is_found_by_name() {
    let Reading::Ok(found) = families_of(*FAMILIES) else { panic!("not read") };
    assert!(matches!(found.as_slice(), [number] if *number > CONTROLLER), "{found:?}");
}

#[test]
fn features_are_found_by_name() {
    let names = names(*NAMES).into_result().unwrap();
    assert_eq!(names["tx-checksum-ip-generic"], 3);
    let flannel = features(*TUNNEL, &names).into_result().unwrap();
    let on = FeatureState { enabled: true, wanted: true, fixed: false };
    assert_eq!(flannel[&Feature::TxChecksumIpGeneric], on);
    let fixed = FeatureState { enabled: false, wanted: false, fixed: true };
    assert_eq!(flannel[&Feature::TxChecksumIpv4], fixed, "ethtool -k prints off [fixed]");
    let eth0 = features(*OFF, &names).into_result().unwrap();
    let off = FeatureState { enabled: false, wanted: false, fixed: false };
    assert_eq!(eth0[&Feature::TxUdpTnlSegmentation], off);
    assert_eq!(eth0[&Feature::TxUdpTnlCsumSegmentation], off);
    assert!(eth0[&Feature::TxChecksumIpGeneric].enabled);
}

#[test]
fn a_feature_this_kernel_does_not_know_is_absent_not_off() {
    let mut names = names(*NAMES).into_result().unwrap();
    names.remove("tx-udp_tnl-segmentation");
    assert!(!features(*TUNNEL, &names).ok().unwrap().contains_key(&Feature::TxUdpTnlSegmentation));
}

#[test]
fn every_cut_is_an_error() {
    let known = names(*NAMES).into_result().unwrap();
    for cut in 0..FAMILIES.len() {
        assert!(matches!(families_of(&FAMILIES[..cut]), Reading::Failed(_)), "families cut at {cut}");
    }
    for cut in 0..NAMES.len() {
        assert!(matches!(names(&NAMES[..cut]), Reading::Failed(_)), "names cut at {cut}");
    }
    for cut in 0..TUNNEL.len() {
        assert!(matches!(features(&TUNNEL[..cut], &known), Reading::Failed(_)), "features cut at {cut}");
    }
}

#[test]
fn random_bytes_never_panic() {
    let known = names(*NAMES).into_result().unwrap();
    proptest::proptest!(|(bytes: Vec<u8>, at in 0..TUNNEL.len(), byte: u8)| {
        let _ = families_of(&bytes);
        let _ = names(&bytes);
        let mut broken = TUNNEL.to_vec();
        broken[at] = byte;
        let _ = features(&broken, &known);
        let _ = bits(Some(&bytes), "random");
    });
}
