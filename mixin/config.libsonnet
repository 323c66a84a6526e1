{
  _config+:: {
    // Added to every selector of natwatch's metrics, for example 'env="prod"'. Empty: nothing.
    selector: '',
    // Which targets are natwatch although none was ever seen there.
    jobSelector: 'job=~".*natwatch.*"',
    // The label that tells clusters apart.
    clusterLabel: 'cluster',
    // Where runbooks are: BASE/NAME. Empty: each node serves its own.
    runbookBase: '',
    // Alerts that are not wanted, by name or by name and severity: 'NatwatchExposed', 'NatwatchExposed.info'.
    disabledAlerts: [],
    // Labels that every alert gets beside its severity.
    alertLabels: {},
  },
}
