"""Where are quotas counted when one process is not enough?"""
