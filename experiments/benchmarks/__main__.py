"""`make bench`: every benchmark in its short form."""

from . import overhead, work_precision

work_precision.short()
overhead.main()
