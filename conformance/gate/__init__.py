"""
The gate for changes of `contracts/`: compares them with the last release, and says who breaks.

    python -m conformance.gate              compare, and hold the changes to their demands
    python -m conformance.gate --release    the same, and write the release if they are met

A body has two parties. The consumer is a client, Tier 2; the producer is a server, Tier 3A. A
change breaks the one or the other, by who sends the body and by what passes now:

                    less passes than before     more passes than before
    request         consumers                   producers
    response        producers                   consumers

A schema has the side of each operation that leads to it, through whatever references; one that
no operation leads to is what a server writes, as a response is. References are followed and not
compared, so that it is the same whether a part is written in place or referred to.

Each keyword has its own rule. Where none fits, the change is unclear and counts for both parties:
another pattern, whatever stands inside `if`, `not` or `oneOf`, a keyword that is not known here
and all that stands beside it. A field that gets a name breaks nobody, though its schema may hold
it to something: what has no name has no meaning yet. A field that loses its name breaks those who
relied on its meaning.

Nothing here is needed to check a server. Only reading `openapi.yaml` takes more than the standard
library: PyYAML.
"""
