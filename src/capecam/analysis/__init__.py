"""Judging results: evaluation, zones and change, faithfulness audit, speed benchmark."""
