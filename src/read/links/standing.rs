//! The parts that rtnetlink sends notifications for, read again only after one.

use std::sync::Arc;

use super::{all_links, decode_link, elsewhere, followed, link_again, no_tunnel, read_fdb, relevant};
use crate::facts::netfilter::Family;
use crate::facts::{Reading, Source, may_forward};
use crate::read::known::links::{KnownLinks, Standing, TunnelSockets};
use crate::read::{Node, datapath, routing};

/// Routes of a family that are read if there is no tunnel; an Internet router has a million.
const MAX_ROUTES: usize = 65_536;

/// The sources it is read from.
const SOURCES: &[Source] = &[Source::Rtnetlink, Source::Routing, Source::Datapath];

/// Takes over what is still valid, or reads it. `sockets`: sockets on tunnel ports now.
pub(crate) fn read(node: &mut Node<'_>, sockets: &TunnelSockets) -> Arc<Standing> {
    let epoch = node.epoch(); // before any request
    let known = node.memory.links.as_ref().filter(|known| epoch == Some(known.epoch));
    if let Some(known) = known.filter(|known| !known.verify && known.standing.sockets == *sockets)
        && let Some(standing) = with_programs(&known.standing, node)
    {
        node.sources.take_over(&known.sources, SOURCES);
        return standing;
    }
    node.left.links = None;
    let earlier = std::mem::take(&mut node.sources);
    let (standing, is_watched) = read_anew(node, sockets);
    let standing = Arc::new(standing);
    let sources = std::mem::replace(&mut node.sources, earlier);
    node.sources.take_over(&sources, SOURCES);
    if let Some(known) = known.filter(|known| known.standing.sockets == *sockets)
        && let Some(what) = known.standing.differs_from(&standing)
        && node.epoch() == epoch
    {
        node.left.unnotified.push(what);
    }
    if let Some(epoch) = epoch.filter(|_| is_watched && sources.is_whole()) {
        node.left.links = Some(KnownLinks {
            standing: Arc::clone(&standing),
            sources,
            epoch,
            since: None,
            verify: false,
            routes: Arc::default(),
            forwarded_paths: Arc::default(),
        });
    }
    standing
}

/// Reads all links, addresses, policy rules and routes. While a tunnel is up, also its forwarding database, which lists
/// its peers, a route lookup for each class of these, which gives the underlay device, and the tc filters of devices on
/// its packets' path. Also returns whether every change will be notified.
fn read_anew(node: &mut Node<'_>, sockets: &TunnelSockets) -> (Standing, bool) {
    let links = node.dump(&all_links(), |message| decode_link(message.body).map(Some));
    let known = links.ok().map_or(&[][..], Vec::as_slice);
    let tunnels: Vec<u32> = followed(known).into_iter().map(|at| known[at].index).collect();
    let is_watched = node.watch_fdb(&tunnels);
    let has_tunnels = !tunnels.is_empty() || !elsewhere::unowned(sockets, known).is_empty();
    let Reading::Ok(mut links) = links else {
        let why = links.failure().cloned().unwrap_or_else(no_tunnel);
        return (Standing { sockets: sockets.clone(), links, ..Standing::unread(&why) }, is_watched);
    };
    read_fdb(node, &mut links);
    let addresses = routing::read_addresses(node);
    let tables = routing::Tables::read(node, if has_tunnels { usize::MAX } else { MAX_ROUTES });
    let forwarding = Family::IP.map(|family| routing::forwards(node, family));
    routing::attach_underlay(node, &tables, &mut links);
    let foreign = {
        let gateways = routing::gateway_devices(&tables);
        elsewhere::tunnels(&elsewhere::unowned(sockets, &links), &links, &addresses, &gateways)
    };
    let crossed = relevant(&links, &foreign);
    let qdiscs = has_tunnels.then(|| datapath::qdiscs(node));
    let forwards = may_forward(&forwarding);
    for (at, link) in links.iter_mut().enumerate() {
        let is_crossed = crossed.contains(&at);
        let Some(qdiscs) = qdiscs.as_ref().filter(|_| is_crossed || forwards) else { continue };
        link.filters = match qdiscs {
            Reading::Ok(qdiscs) if is_crossed || qdiscs.iter().any(|qdisc| qdisc.classifies(link.index)) => {
                datapath::filters_of(node, link, qdiscs)
            }
            Reading::Ok(_) => Reading::Absent("no queueing discipline takes filters where packets come in".into()),
            unread => unread.as_ref().map(|_| Vec::new()),
        };
    }
    let (rules, routes) = (routing::all_rules(&tables), routing::wanted_routes(&tables, &links, &foreign));
    let unmarked_routes = routing::unmarked::routes(&tables);
    let (links, sockets) = (Reading::Ok(links), sockets.clone());
    (Standing { links, addresses, rules, routes, unmarked_routes, forwarding, foreign, sockets }, is_watched)
}

/// Adds whether links have an XDP program, which is not notified. `None`: the rest is not valid any more.
fn with_programs(standing: &Arc<Standing>, node: &mut Node<'_>) -> Option<Arc<Standing>> {
    let mut with = Arc::clone(standing);
    let links = standing.links.ok().map_or(&[][..], Vec::as_slice);
    for at in relevant(links, &standing.foreign) {
        let link = &links[at];
        let again = node.try_answer(&link_again(link), |message| decode_link(message.body));
        let xdp = again.ok().filter(|again| again.index == link.index)?.xdp;
        if xdp != link.xdp
            && let Reading::Ok(links) = &mut Arc::make_mut(&mut with).links
        {
            links[at].xdp = xdp;
        }
    }
    Some(with)
}

#[cfg(test)]
mod tests;
