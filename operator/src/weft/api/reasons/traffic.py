"""The conditions of inference groups that say what is known of their traffic, and from where."""

from __future__ import annotations

from weft.api.reasons.declared import ConditionType, Reason

GROUP = ("InferenceGroup",)

CONDITIONS = (
    ConditionType(
        GROUP,
        "AbleToScaleToZero",
        "Where roles have `spec.minReplicas` 0: all replicas go when no request has come for 20 minutes.",
        (
            Reason(
                "True", "FrontEndQueues", "The front end tells which requests wait, and so wakes the group."
            ),
            Reason(
                "False",
                "NoActivator",
                "Nothing tells which requests wait at the front end; one replica of each role stays.",
                "Turn on flow control of the endpoint picker and have it scraped (docs/engines.md), or set"
                " `spec.minReplicas` to 1.",
            ),
            Reason(
                "False",
                "RolesKeepReplicas",
                "Something else keeps replicas: the mode, `accelerators.minimum`, or another role's `minReplicas`.",
                "Set the mode to Auto, and these to 0; or `spec.minReplicas` to 1.",
            ),
        ),
    ),
    ConditionType(
        GROUP,
        "KVCachesRead",
        "Where engines count it (vLLM with NIXL): decode read in time what prefill computed in the last 20 minutes.",
        (
            Reason("True", "AllRead", "None was left unread until its lease ended."),
            Reason(
                "False",
                "KVExpired",
                "The lease of some ended before decode had read them; Weft changes nothing for it.",
                "See that decode replicas reach the pods that the message names and are not overloaded; else raise the"
                " lease of the engines' KV connector, and `kv_hold_seconds` of the preset with it.",
                event="Warning",
            ),
        ),
    ),
    ConditionType(
        GROUP,
        "ObjectivesMet",
        "In the long window the promised share of requests was within `spec.objectives`.",
        (
            Reason("True", "Met", "The promised share is within the objectives."),
            Reason(
                "False",
                "Missed",
                "Fewer than promised are within the objectives that the message names.",
                "See `status.decision`; raise replicas and `accelerators.maximum` if no split is enough.",
            ),
            Reason(
                "Unknown",
                "MetricsNotFresh",
                "The metrics cannot be trusted now.",
                "See the condition MetricsFresh.",
                see="MetricsFresh",
            ),
            Reason("Unknown", "NoRequests", "There was no request to judge an objective by."),
            Reason(
                "Unknown",
                "HistogramMissing",
                "Neither the front end nor the engines have the histogram that an objective is judged by.",
                "Have them scraped with classic histograms, or use a preset whose exporter has it (docs/engines.md).",
            ),
        ),
    ),
    ConditionType(
        GROUP,
        "MetricsFresh",
        "The metrics of all serving replicas and of the front end are recent and whole; while False the split holds.",
        (
            Reason("True", "Fresh", "The split follows the traffic; the message says if scrapes are rare."),
            Reason(
                "True",
                "PartlyFresh",
                "The split follows the traffic without what the message names: enough others speak for it.",
                "Mend what the message says of them.",
            ),
            Reason(
                "Unknown", "ScaledToZero", "There are no replicas: only what waits at the front end is read."
            ),
            Reason(
                "False",
                "NoReplicas",
                "No replica has served for several scrapes yet.",
                "Wait; if it lasts, see the condition Ready.",
                see="Ready",
            ),
            Reason(
                "False",
                "SeriesMissing",
                "Too many serving pods, or the front end, have no series of a signal that is needed.",
                "Have it scraped, with the labels namespace and pod, under the names of the preset.",
            ),
            Reason(
                "False",
                "NotANumber",
                "A value is not a number of zero or more.",
                "Mend what the named target reports; it counts until it has left the long window.",
            ),
            Reason(
                "False",
                "NotAShare",
                "The KV use, or the busy share, of engines is above 1: a preset of the settings reads a percentage.",
                "Divide that signal by 100 in the preset (`presets.NAME.engine` in the operator's settings).",
            ),
            Reason(
                "False",
                "ScrapedTwice",
                "A target is scraped more than once, or replicas of Prometheus are: it would count twice.",
                "Remove one of the scrape jobs, or have the source remove duplicates (`query_parameters`).",
            ),
            Reason(
                "False",
                "Stale",
                "A target was not scraped for several intervals.",
                "Look at the target in Prometheus, and at the source's scrape interval in the operator's settings.",
            ),
            Reason(
                "False",
                "CounterReset",
                "A target restarted its counters within the window that is read.",
                "Wait until the window is over; if it repeats, find out why the target restarts.",
            ),
            Reason(
                "False",
                "PartialAnswer",
                "Prometheus answers with a warning: it could not reach all of its data.",
                "Mend what the message quotes; missing series would count as no load.",
            ),
            Reason(
                "False",
                "Contradiction",
                "Engines work while the front end counts no request.",
                "Correct `spec.metrics.models` or the preset: the message names other models that are asked for.",
            ),
            Reason(
                "False",
                "SourceUnavailable",
                "Prometheus does not answer, or not usefully.",
                "Mend what the message says of it.",
            ),
            Reason(
                "False",
                "SourceNotFound",
                "The operator's settings have no source of the name in `spec.metrics.source`.",
                "Correct the name, or have the administrator add the source.",
            ),
            Reason(
                "False",
                "PresetNotFound",
                "The operator's settings have no preset of the name in `spec.metrics.preset`.",
                "Correct the name, or have the administrator add the preset.",
            ),
        ),
    ),
    ConditionType(
        GROUP,
        "DemandEstimated",
        "The offered work is concluded from something else than the front end's counts; the message says from what.",
        (
            Reason("False", "Counted", "The front end counts the requests and their lengths."),
            Reason(
                "True",
                "FrontEndNotTrusted",
                "The front end's series cannot be used: the engines' counts and queues are.",
                "Mend what the message says of the front end.",
            ),
            Reason(
                "True",
                "FrontEndMissesRequests",
                "The engines get more requests than the front end counts: their counts and queues are used.",
                "Name adapters and aliases in `spec.metrics.models`; have all front ends scraped.",
            ),
            Reason(
                "True",
                "FrontEndCountsMore",
                "The front end counts more requests than these engines get; its counts are used.",
                "Use one group per model and namespace; look at what the front end refuses.",
            ),
            Reason(
                "True",
                "QueueGrowth",
                "The front end counts a request only when it lets it through: the growth of its queue is added.",
            ),
            Reason(
                "True",
                "LengthsFromEngines",
                "The front end does not tell lengths: they are the engines', known when a part has ended.",
            ),
            Reason(
                "True",
                "AnswersNotEnded",
                "No answer of a load that just began has ended: they are taken to be twice as long as the oldest are.",
            ),
            Reason(
                "Unknown",
                "LengthsUnknown",
                "Requests arrive, and nothing tells their lengths yet; nothing is decided.",
                "Wait for the first answers to end; if it lasts, have the series scraped that the message names.",
            ),
            Reason("Unknown", "LoadBegan", "The load began just now; nothing is decided yet.", "Wait."),
            Reason("Unknown", "NoRequests", "No request arrived; nothing is decided."),
            Reason(
                "Unknown",
                "MetricsNotFresh",
                "The metrics cannot be trusted now.",
                "See the condition MetricsFresh.",
                see="MetricsFresh",
            ),
        ),
    ),
)
