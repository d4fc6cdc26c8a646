"""Judging results: evaluation, zones, change, reviews, faithfulness audit, speed benchmark."""
