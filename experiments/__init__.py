"""The runnable part: data sets, configurations, training, sampling and evaluation."""
