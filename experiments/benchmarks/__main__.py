"""`make bench`: every benchmark in its short form."""

from . import overhead

overhead.main()
