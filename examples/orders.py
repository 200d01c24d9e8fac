"""Orders from n8n: every event whose type begins with ``order.`` starts this flow."""

from prefect import flow

from prefect_n8n import WebhookEvent, webhook


@webhook("orders", types=["order.*"])
@flow(log_prints=True)
async def on_order(event: WebhookEvent):
    print(f"{event.type}: order {event.id} over {event.body.get('total', 'nothing')}")
