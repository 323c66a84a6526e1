//! Flags of collectors.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::facts::Collector;
use crate::read::{Collectors, FlowLimits};

/// How much is read of entries of connection tracking, and shown.
#[derive(Clone, Debug, Args)]
pub struct FlowFlags {
    /// Entries of connection tracking that are read as a sample
    #[arg(long = "collector.flows.sample", value_name = "N", default_value_t = FlowLimits::default().sample, value_parser = clap::value_parser!(u64).range(1..))]
    pub sample: u64,
    /// Entries are read at most so often; 0: at each scrape
    #[arg(long = "collector.flows.interval", value_name = "SECONDS", default_value_t = 30)]
    pub interval: u32,
    /// Destinations with a series of their own, those with the fewest ports left; their addresses are labels
    #[arg(long = "collector.flows.destinations", value_name = "N", default_value_t = 0)]
    pub destinations: usize,
    /// Show addresses of flows in the web report (check always does)
    #[arg(long = "collector.flows.addresses")]
    pub addresses: bool,
}

/// `--collector.NAME` and `--no-collector.NAME` for every collector; the later one wins.
#[derive(Clone, Debug)]
pub struct CollectorFlags {
    /// Those that are on.
    pub on: Collectors,
    /// Those that were asked for by name.
    pub named: Collectors,
}

impl FromArgMatches for CollectorFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let on = |collector: &&Collector| !matches.get_flag(&off_flag(**collector));
        let named = |collector: &&Collector| matches.get_flag(&on_flag(**collector));
        let all = Collector::ALL.iter();
        Ok(Self { on: all.clone().filter(on).copied().collect(), named: all.filter(named).copied().collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for CollectorFlags {
    fn augment_args(command: Command) -> Command {
        Collector::ALL.iter().fold(command, |command, collector| {
            let (on, off) = (on_flag(*collector), off_flag(*collector));
            let usual = if *collector == Collector::Flows { "the default, but for capture" } else { "the default" };
            let what = format!("Read for the {collector} collector ({usual})");
            command
                .arg(flag(&on).overrides_with(off.clone()).help(what))
                .arg(flag(&off).overrides_with(on).help("Do not; what needs it is unknown then"))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn flag(name: &str) -> Arg {
    Arg::new(name.to_owned()).long(name.to_owned()).action(ArgAction::SetTrue)
}

fn on_flag(collector: Collector) -> String {
    format!("collector.{collector}")
}

fn off_flag(collector: Collector) -> String {
    format!("no-collector.{collector}")
}
