"""The administrator's pages: people and their devices, service levels, webhooks, what was seen and erased.

They are being written by another pair of hands than the employee's pages.
"""
